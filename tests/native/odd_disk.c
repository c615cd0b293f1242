/* Stands between a process and its disk, as some file systems behave: $ODD names the way. Counts what was asked not to
   move over anything, and says so at the end. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TURNS 100000

static atomic_int asked, refusals;

static int
is_odd(const char *way)
{
    const char *odd = getenv("ODD");
    return odd != NULL && strcmp(odd, way) == 0;
}

static int
refused(const char *name)
{
    if (!is_odd("refuses colons") || strchr(name, ':') == NULL) {
        return 0;
    }
    refusals++;
    errno = EINVAL;
    return 1;
}

int
renameat2(int from, const char *part, int to, const char *target, unsigned int flags)
{
    static int (*real)(int, const char *, int, const char *, unsigned int);

    real = dlsym(RTLD_NEXT, "renameat2");
    asked += flags != 0;
    if (refused(target) || (flags && is_odd("promises nothing"))) {
        errno = EINVAL;
        return -1;
    }
    const int result = real(from, part, to, target, flags), error = errno;
    /* Those that were under way with the one that is refused come back after it. */
    for (int turn = 0; is_odd("refuses colons") && turn < (refusals ? 1000 : TURNS); turn++) {
        sched_yield();
    }
    errno = error;
    return result;
}

int
rename(const char *part, const char *target)
{
    static int (*real)(const char *, const char *);

    real = dlsym(RTLD_NEXT, "rename");
    return refused(target) ? -1 : real(part, target);
}

int
close(int file)
{
    static int (*real)(int);
    char link[64], name[PATH_MAX] = "";

    real = dlsym(RTLD_NEXT, "close");
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    if ((is_odd("loses at a close") || is_odd("is interrupted at a close")) &&
        readlink(link, name, sizeof name - 1) > 0 && strstr(name, "lost") != NULL) {
        if (ftruncate(file, 0) == 0 && is_odd("is interrupted at a close")) {
            real(file);
            errno = EINTR;
            return -1;
        }
    }
    return real(file);
}

__attribute__((destructor)) static void
tell(void)
{
    const char *path = getenv("ODD_TOLD");
    FILE *file = path == NULL ? NULL : fopen(path, "w");

    if (file != NULL) {
        fprintf(file, "%d", asked);
        fclose(file);
    }
}
