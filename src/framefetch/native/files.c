/* Many small files at a time: written, and moved to names that are free. Where each takes long, as on a disk that is far
   away, several threads do it side by side. */
#include "module.h"

#ifdef CAN_BE_NATIVE

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Where a file takes so many seconds, as the first ones show, so many threads help at most. */
#define PATIENCE 0.0005
#define TRIED 4
#define HELPERS 15
#define STACK (256 * 1024)

/* What became of one file: what the system says of it, or the number of an error. */
typedef struct {
    int error;
    struct stat found;
} Outcome;

/* What is to be done with many files, each by whoever takes it. */
typedef struct {
    const Held *paths, *others;
    bool moves;
    Outcome *outcomes;
    _Atomic Py_ssize_t next;
    atomic_bool cannot_promise; /* not to move over anything: the file system does not know how */
} Lot;

/* A time in nanoseconds, or the nearest that 64 bits can hold: file systems have dates that are further away. */
static long long
bounded(struct timespec time)
{
    long long seconds = time.tv_sec, rest = time.tv_nsec, sum;

    if (seconds < 0) { /* so that both have one sign, and nothing in between is larger than the sum */
        seconds += 1;
        rest -= 1000000000LL;
    }
    if (__builtin_mul_overflow(seconds, 1000000000LL, &sum) || __builtin_add_overflow(sum, rest, &sum)) {
        return time.tv_sec < 0 ? LLONG_MIN : LLONG_MAX;
    }
    return sum;
}

static PyObject *
told(const Outcome outcomes[], Py_ssize_t count)
{
    PyObject *result = PyList_New(count);

    for (Py_ssize_t i = 0; result != NULL && i < count; i++) {
        const struct stat *found = &outcomes[i].found;
        PyObject *item =
            outcomes[i].error
                ? PyLong_FromLong(outcomes[i].error)
                : Py_BuildValue("iLLLK", (int)found->st_mode, (long long)found->st_size,
                                bounded(found->st_mtim), bounded(found->st_ctim), (unsigned long long)found->st_ino);
        if (item == NULL || PyList_SetItem(result, i, item) < 0) {
            Py_CLEAR(result);
        }
    }
    return result;
}

static Outcome
write_one(const char *path, const Py_buffer *body)
{
    Outcome outcome = {.error = 0};
    int target;

    do {
        target = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    } while (target < 0 && errno == EINTR);
    if (target < 0) {
        outcome.error = errno;
        return outcome;
    }
    outcome.error = write_all(target, body->buf, (size_t)body->len);
    if (close(target) < 0 && !outcome.error) { /* a full disk or quota may show itself only here */
        outcome.error = errno;
    }
    /* Looked at when it is closed: only by then a disk that is far away has it, with the time that it keeps. */
    if (!outcome.error && lstat(path, &outcome.found) < 0) {
        outcome.error = errno;
    }
    if (outcome.error) {
        unlink(path);
    }
    return outcome;
}

/* Give a part its name, never over anything: not even over what comes there in this moment, where the file system can
   promise that. Return the number of an error. */
static int
rename_new(Lot *lot, const char *part, const char *target)
{
    struct stat found;

    if (!lot->cannot_promise) {
        if (renameat2(AT_FDCWD, part, AT_FDCWD, target, RENAME_NOREPLACE) == 0) {
            return 0;
        }
        if (errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP) {
            return errno;
        }
    }
    if (lstat(target, &found) == 0) {
        return EEXIST;
    }
    if (errno != ENOENT || rename(part, target) < 0) {
        return errno; /* the same again, where it was about this name and says nothing of the others */
    }
    lot->cannot_promise = true; /* nor for the others, which are on the same disk: each try is a call of it */
    return 0;
}

static Outcome
move_one(Lot *lot, const char *part, const char *target)
{
    Outcome outcome = {.error = ESTALE};

    /* A network file system may remember a folder that is another one by now; it looks again. */
    for (int times = 0; times < 2 && outcome.error == ESTALE; times++) {
        outcome.error = rename_new(lot, part, target);
    }
    if (!outcome.error && lstat(target, &outcome.found) < 0) {
        outcome.error = errno;
    }
    return outcome;
}

static bool
do_next(Lot *lot)
{
    Py_ssize_t i = lot->next++;

    if (i >= lot->paths->count) {
        return false;
    }
    const char *path = lot->paths->views[i].buf;
    const Py_buffer *other = &lot->others->views[i];
    lot->outcomes[i] = lot->moves ? move_one(lot, path, other->buf) : write_one(path, other);
    return true;
}

static void *
help(void *lot)
{
    while (do_next(lot)) {
    }
    return NULL;
}

/* Start threads, deaf to signals, which are the interpreter's business; return how many there are. */
static int
call_for_help(Lot *lot, pthread_t helpers[HELPERS], Py_ssize_t left)
{
    pthread_attr_t manner;
    sigset_t all, before;
    int count = 0;

    if (pthread_attr_init(&manner) != 0) {
        return 0;
    }
    (void)pthread_attr_setstacksize(&manner, STACK);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (count < HELPERS && count < left - 1 && pthread_create(&helpers[count], &manner, help, lot) == 0) {
        count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&manner);
    return count;
}

static double
seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Do all of it, with helpers once the first ones have taken longer than they may. */
static void
do_all(Lot *lot, double patience)
{
    pthread_t helpers[HELPERS];
    int count = 0;
    double began = seconds();

    for (Py_ssize_t done = 1; do_next(lot); done++) {
        if (done == TRIED && seconds() - began >= TRIED * patience) {
            count = call_for_help(lot, helpers, lot->paths->count - done);
        }
    }
    while (count > 0) {
        pthread_join(helpers[--count], NULL);
    }
}

/* Do something with each pair of the items of two lists of the same length. */
static PyObject *
for_each(PyObject *arguments, bool moves)
{
    PyObject *first, *second, *result = NULL;
    Held paths, others = {.count = 0};
    Outcome *outcomes = NULL;
    double patience = PATIENCE;

    if (!PyArg_ParseTuple(arguments, "OO|d", &first, &second, &patience) || !hold(&paths, first, true)) {
        return NULL;
    }
    if (hold(&others, second, moves)) {
        if (paths.count != others.count) {
            PyErr_SetString(PyExc_ValueError, "expected lists of the same length");
        } else if ((outcomes = PyMem_Calloc((size_t)paths.count + 1, sizeof *outcomes)) == NULL) {
            PyErr_NoMemory();
        } else {
            Lot lot = {.paths = &paths, .others = &others, .moves = moves, .outcomes = outcomes};
            Py_BEGIN_ALLOW_THREADS;
            do_all(&lot, patience);
            Py_END_ALLOW_THREADS;
            result = told(outcomes, paths.count);
            PyMem_Free(outcomes);
        }
        let_go(&others);
    }
    let_go(&paths);
    return result;
}

PyObject *
write_new(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    return for_each(arguments, false);
}

PyObject *
move_new(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    return for_each(arguments, true);
}

#endif
