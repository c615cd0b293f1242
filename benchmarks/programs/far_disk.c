/* far_disk FOLDER MOUNTPOINT CALL_US CLOSE_US: a folder as on a disk that is far away, until a signal ends it.

   Each call is answered some microseconds later, as by a server at the other end of a network; a close of what was open
   for writing takes some more, as the server must have the bytes by then. Many calls may be under way at once. What is
   known of a file or name is believed for a second, as network file systems do. Needs libfuse 3. */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <fuse.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#define BELIEVED 1.0
#define IDLE_THREADS "max_idle_threads=64"

static const char *folder;
static long call_us, close_us;

static void
wait_us(long us)
{
    struct timespec time = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};

    while (us && clock_nanosleep(CLOCK_MONOTONIC, 0, &time, &time) == EINTR) {
    }
}

/* Where a name leads; the call takes its time. */
#define THERE(path, there) \
    char there[PATH_MAX]; \
    wait_us(call_us); \
    snprintf(there, sizeof there, "%s%s", folder, path)

/* An open file is its descriptor, and whether it is open for writing: at a close the kernel does not say so again. */
#define HANDLE(file) ((int)((file)->fh >> 1))
#define IS_WRITTEN(file) ((file)->fh & 1)

static int
told(long long result)
{
    return result < 0 ? -errno : (int)result;
}

static int
far_getattr(const char *path, struct stat *found, struct fuse_file_info *file)
{
    THERE(path, there);
    return told(file == NULL ? lstat(there, found) : fstat(HANDLE(file), found));
}

static int
far_mkdir(const char *path, mode_t mode)
{
    THERE(path, there);
    return told(mkdir(there, mode));
}

static int
far_unlink(const char *path)
{
    THERE(path, there);
    return told(unlink(there));
}

static int
far_rmdir(const char *path)
{
    THERE(path, there);
    return told(rmdir(there));
}

static int
far_rename(const char *path, const char *target, unsigned int flags)
{
    char other[PATH_MAX];

    snprintf(other, sizeof other, "%s%s", folder, target);
    THERE(path, there);
    return told(renameat2(AT_FDCWD, there, AT_FDCWD, other, flags));
}

static int
far_link(const char *path, const char *target)
{
    char other[PATH_MAX];

    snprintf(other, sizeof other, "%s%s", folder, target);
    THERE(path, there);
    return told(link(there, other));
}

static int
far_chmod(const char *path, mode_t mode, struct fuse_file_info *file)
{
    (void)file;
    THERE(path, there);
    return told(chmod(there, mode));
}

static int
far_truncate(const char *path, off_t size, struct fuse_file_info *file)
{
    THERE(path, there);
    return told(file == NULL ? truncate(there, size) : ftruncate(HANDLE(file), size));
}

static int
far_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *file)
{
    (void)file;
    THERE(path, there);
    return told(utimensat(AT_FDCWD, there, times, AT_SYMLINK_NOFOLLOW));
}

static int
opened(const char *there, int flags, mode_t mode, struct fuse_file_info *file)
{
    int handle = open(there, flags, mode);

    if (handle < 0) {
        return -errno;
    }
    file->fh = (uint64_t)handle << 1 | ((flags & O_ACCMODE) != O_RDONLY);
    return 0;
}

static int
far_open(const char *path, struct fuse_file_info *file)
{
    THERE(path, there);
    return opened(there, file->flags, 0, file);
}

static int
far_create(const char *path, mode_t mode, struct fuse_file_info *file)
{
    THERE(path, there);
    return opened(there, file->flags | O_CREAT, mode, file);
}

static int
far_read(const char *path, char *room, size_t size, off_t at, struct fuse_file_info *file)
{
    (void)path;
    wait_us(call_us);
    return told(pread(HANDLE(file), room, size, at));
}

static int
far_write(const char *path, const char *data, size_t size, off_t at, struct fuse_file_info *file)
{
    (void)path;
    wait_us(call_us);
    return told(pwrite(HANDLE(file), data, size, at));
}

/* Called for each close. */
static int
far_flush(const char *path, struct fuse_file_info *file)
{
    (void)path;
    if (IS_WRITTEN(file)) {
        wait_us(call_us + close_us);
    }
    return 0;
}

/* Called when the last descriptor of an open file is closed; nobody waits for it. */
static int
far_release(const char *path, struct fuse_file_info *file)
{
    (void)path;
    return told(close(HANDLE(file)));
}

static int
far_fsync(const char *path, int data_only, struct fuse_file_info *file)
{
    (void)path, (void)data_only, (void)file;
    wait_us(call_us + close_us);
    return 0;
}

static int
far_statfs(const char *path, struct statvfs *found)
{
    THERE(path, there);
    return told(statvfs(there, found));
}

static int
far_readdir(const char *path, void *room, fuse_fill_dir_t fill, off_t at, struct fuse_file_info *file,
            enum fuse_readdir_flags flags)
{
    (void)at, (void)file, (void)flags;
    THERE(path, there);
    DIR *opened_folder = opendir(there);

    if (opened_folder == NULL) {
        return -errno;
    }
    for (struct dirent *entry; (entry = readdir(opened_folder)) != NULL;) {
        fill(room, entry->d_name, NULL, 0, 0);
    }
    closedir(opened_folder);
    return 0;
}

static void *
far_init(struct fuse_conn_info *connection, struct fuse_config *config)
{
    (void)connection;
    config->use_ino = 1;
    config->entry_timeout = config->attr_timeout = BELIEVED;
    return NULL;
}

int
main(int count, char *words[])
{
    static const struct fuse_operations operations = {
        .getattr = far_getattr, .mkdir = far_mkdir, .unlink = far_unlink, .rmdir = far_rmdir, .rename = far_rename,
        .link = far_link, .chmod = far_chmod, .truncate = far_truncate, .utimens = far_utimens, .open = far_open,
        .create = far_create, .read = far_read, .write = far_write, .flush = far_flush, .release = far_release,
        .fsync = far_fsync, .statfs = far_statfs, .readdir = far_readdir, .init = far_init,
    };

    if (count != 5) {
        fprintf(stderr, "%s FOLDER MOUNTPOINT CALL_US CLOSE_US\n", words[0]);
        return 2;
    }
    folder = words[1], call_us = atol(words[3]), close_us = atol(words[4]);
    umask(0);
    char *told_to_fuse[] = {words[0], "-f", "-o", IDLE_THREADS, words[2], NULL};
    return fuse_main(5, told_to_fuse, &operations, NULL);
}
