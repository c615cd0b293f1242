/* Stands between a process and one folder of its disk (LD_PRELOAD).
 *
 * Nothing happens until `disk_arm` names a folder. From then on every call on files below it is counted, and the
 * one asked for fails, is cut short, or is the last one of this process; or all are written down with their bytes.
 * SQLite's calls go the same way as ours: both ask the C library.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { CREATE = 1, OPEN = 2, WRITE = 4, SIZE = 8, CLOSE = 16, SYNC = 32, RENAME = 64, UNLINK = 128, READ = 256, SOCKET = 512 };
enum mode { OFF, FAIL, SHORT, KILL };
enum { FILES = 1 << 16 };

/* Read by the parent after the child has ended, so it lies in shared memory. */
struct report { long calls; long struck; char call[16]; char path[480]; };

static struct report *report;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *names[FILES], writable[FILES];
static char root[4096];
static size_t root_length;
static unsigned mask;
static long first, last;
static int mode, error, record = -1;

#define REAL(name) ({ static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name); real; })

__attribute__((constructor)) static void begin(void) {
    report = mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

struct report *disk_report(void) { return report; }

/* Strike the calls from number `from` to number `to` (from 1) of the kinds in `kinds`; with a log, write all down. */
void disk_arm(const char *folder, unsigned kinds, long from, long to, int how, int number, const char *log) {
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
    memset(report, 0, sizeof *report);
    mask = kinds, first = from, last = to, mode = how, error = number;
    record = log ? syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
}

static int below(const char *path) {
    return root_length && path && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static const char *name_of(int fd) { return fd >= 0 && fd < FILES ? names[fd] : NULL; }

static void put(const char *bytes, size_t count) {
    while (count) {
        long done = syscall(SYS_write, record, bytes, count);
        if (done <= 0) abort();
        bytes += done, count -= done;
    }
}

/* One line, and the bytes that were written. Paths are told from the folder on. */
static void note(const char *op, int fd, long offset, long length, const char *a, const char *b, const void *bytes) {
    if (record < 0) return;
    char line[9000];
    int count = snprintf(line, sizeof line, "%s\t%d\t%ld\t%ld\t%s\t%s\n", op, fd, offset, length,
                         a ? a + root_length : "", b ? b + root_length : "");
    put(line, count);
    if (bytes) put(bytes, length);
}

/* Count a call; return 1 where it is to be struck. Does not return where it was to be the last one. */
static int strikes(unsigned kind, const char *call, const char *path) {
    if (!root_length || !(mask & kind) || (kind != SOCKET && !below(path))) return 0;
    long number = ++report->calls;
    if (mode == OFF || number < first || number > last) return 0;
    if (!report->struck++) {
        snprintf(report->call, sizeof report->call, "%s", call);
        snprintf(report->path, sizeof report->path, "%s", path ? path + root_length : "");
    }
    if (mode == KILL) syscall(SYS_kill, getpid(), SIGKILL);
    return 1;
}

#define ENTER pthread_mutex_lock(&lock)
#define LEAVE(result) do { int kept = errno; pthread_mutex_unlock(&lock); errno = kept; return result; } while (0)
#define STRIKE(kind, call, path) \
    if (strikes(kind, call, path) && mode == FAIL) { errno = error; pthread_mutex_unlock(&lock); errno = error; return -1; }

static int opened(int (*real)(int, const char *, int, ...), int at, const char *path, int flags, mode_t rights) {
    ENTER;
    STRIKE(flags & O_CREAT ? CREATE : OPEN, "open", path);
    struct stat found;
    int is_new = record >= 0 && (flags & O_CREAT) && below(path) && lstat(path, &found);
    int fd = real(at, path, flags, rights);
    if (fd >= 0 && fd < FILES && below(path)) {
        free(names[fd]);
        names[fd] = strdup(path);
        writable[fd] = (flags & O_ACCMODE) != O_RDONLY;
        note(is_new ? "create" : "open", fd, 0, 0, path, NULL, NULL);
        if (flags & O_TRUNC) note("size", fd, 0, 0, NULL, NULL, NULL);
    }
    LEAVE(fd);
}

#define OPENER(name, real_name, head, at, ...) \
    int name(head const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); \
        mode_t rights = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        return opened(REAL(real_name), at, path, flags, rights); }
#define NOTHING
#define FOLDER int at,
OPENER(open, openat, NOTHING, AT_FDCWD)
OPENER(open64, openat64, NOTHING, AT_FDCWD)
OPENER(openat, openat, FOLDER, at)
OPENER(openat64, openat64, FOLDER, at)
int __open_2(const char *path, int flags) { return opened(REAL(openat), AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return opened(REAL(openat64), AT_FDCWD, path, flags, 0); }

int close(int fd) {
    const char *path = name_of(fd);
    if (!path) return REAL(close)(fd);
    ENTER;
    int fails = writable[fd] && strikes(CLOSE, "close", path) && mode == FAIL; /* what was only read has nothing to say */
    int done = REAL(close)(fd); /* also one that fails has closed */
    note("close", fd, 0, 0, NULL, NULL, NULL);
    free(names[fd]);
    names[fd] = NULL;
    if (fails) done = -1, errno = error;
    LEAVE(done);
}

static ssize_t written(int fd, const void *bytes, size_t count, off_t offset) {
    const char *path = name_of(fd);
    ENTER;
    int struck = strikes(WRITE, "write", path);
    if (struck && mode == FAIL) { errno = error; LEAVE(-1); }
    if (struck && mode == SHORT && count > 1) count /= 2;
    ssize_t done = offset < 0 ? REAL(write)(fd, bytes, count) : REAL(pwrite)(fd, bytes, count, offset);
    if (done > 0) note("write", fd, offset < 0 ? lseek(fd, 0, SEEK_CUR) - done : offset, done, NULL, NULL, bytes);
    LEAVE(done);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    return name_of(fd) ? written(fd, bytes, count, -1) : REAL(write)(fd, bytes, count);
}
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    return name_of(fd) ? written(fd, bytes, count, offset) : REAL(pwrite)(fd, bytes, count, offset);
}
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) { return pwrite(fd, bytes, count, offset); }

#define READER(result, name, parameters, arguments) \
    result name parameters { \
        const char *path = name_of(fd); \
        if (!path) return REAL(name) arguments; \
        ENTER; \
        STRIKE(READ, "read", path); \
        result done = REAL(name) arguments; \
        LEAVE(done); }
READER(ssize_t, read, (int fd, void *room, size_t count), (fd, room, count))
READER(ssize_t, pread, (int fd, void *room, size_t count, off_t offset), (fd, room, count, offset))
READER(ssize_t, pread64, (int fd, void *room, size_t count, off64_t offset), (fd, room, count, offset))
READER(ssize_t, preadv, (int fd, const struct iovec *room, int count, off_t offset), (fd, room, count, offset))
READER(ssize_t, preadv64, (int fd, const struct iovec *room, int count, off64_t offset), (fd, room, count, offset))
ssize_t __read_chk(int fd, void *room, size_t count, size_t size) { (void)size; return read(fd, room, count); }
ssize_t __pread64_chk(int fd, void *room, size_t count, off64_t offset, size_t size) { (void)size; return pread64(fd, room, count, offset); }

#define ON_FILE(kind, name, parameters, arguments, ...) \
    int name parameters { \
        const char *path = name_of(fd); \
        if (!path) return REAL(name) arguments; \
        ENTER; \
        STRIKE(kind, #name, path); \
        int done = REAL(name) arguments; \
        if (!done) note(__VA_ARGS__, NULL, NULL, NULL); \
        LEAVE(done); }
ON_FILE(SYNC, fsync, (int fd), (fd), "sync", fd, 0, 0)
ON_FILE(SYNC, fdatasync, (int fd), (fd), "sync", fd, 0, 0)
ON_FILE(SYNC, syncfs, (int fd), (fd), "syncfs", fd, 0, 0)
ON_FILE(SIZE, ftruncate, (int fd, off_t size), (fd, size), "size", fd, size, 0)
ON_FILE(SIZE, ftruncate64, (int fd, off64_t size), (fd, size), "size", fd, size, 0)

#define ON_PATH(kind, op, name, parameters, arguments, a, b) \
    int name parameters { \
        ENTER; \
        STRIKE(kind, op, a); \
        int done = REAL(name) arguments; \
        if (!done && below(a)) note(op, -1, 0, 0, a, b, NULL); \
        LEAVE(done); }
ON_PATH(RENAME, "rename", rename, (const char *a, const char *b), (a, b), a, b)
ON_PATH(RENAME, "rename", renameat, (int i, const char *a, int j, const char *b), (i, a, j, b), a, b)
ON_PATH(RENAME, "rename", renameat2, (int i, const char *a, int j, const char *b, unsigned k), (i, a, j, b, k), a, b)
ON_PATH(CREATE, "link", link, (const char *a, const char *b), (a, b), a, b)
ON_PATH(CREATE, "link", linkat, (int i, const char *a, int j, const char *b, int k), (i, a, j, b, k), a, b)
ON_PATH(UNLINK, "unlink", unlink, (const char *a), (a), a, NULL)
ON_PATH(UNLINK, "unlink", unlinkat, (int i, const char *a, int k), (i, a, k), a, NULL)
ON_PATH(CREATE, "mkdir", mkdir, (const char *a, mode_t rights), (a, rights), a, NULL)
ON_PATH(CREATE, "mkdir", mkdirat, (int i, const char *a, mode_t rights), (i, a, rights), a, NULL)

int socket(int family, int type, int protocol) {
    ENTER;
    STRIKE(SOCKET, "socket", NULL);
    int fd = REAL(socket)(family, type, protocol);
    LEAVE(fd);
}
