/* What is done without the interpreter.
 *
 * Python gives its lock up for every call of the system, and gets it back late where other threads have work: what
 * lies between the calls is little, the changes of thread are not. So what belongs together is done here at one go:
 * from a socket into a file, digested on the way; many
 * sockets asked and heard; many small files written, and moved to their names. What is to be
 * done, and what follows from how it went, is decided in Python; `framefetch.native.plain` does the same there, a call
 * at a time, where this module cannot be had.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#if defined(__x86_64__) && defined(__GNUC__) && defined(__linux__)

#include "md5.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    WORTH_UNLOCKING = 2048, /* bytes to be digested from which on the interpreter's lock is given up */
};

/* Write all bytes; return 0, or the number of the error. */
static int
write_all(int target, const uint8_t *bytes, size_t length)
{
    while (length) {
        const ssize_t count = write(target, bytes, length);
        if (count > 0) {
            bytes += count;
            length -= (size_t)count;
        } else if (count == 0) {
            return EIO;
        } else if (errno != EINTR) {
            return errno;
        }
    }
    return 0;
}

static PyObject *
in_hex(const uint32_t digest[4])
{
    static const char digits[] = "0123456789abcdef";
    uint8_t bytes[16];
    char text[32];

    memcpy(bytes, digest, sizeof bytes);
    for (int i = 0; i < 16; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    return PyUnicode_FromStringAndSize(text, sizeof text);
}

/* -- MD5 as bytes pass -------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    Message message; /* settled while nobody is in a method */
    bool is_busy;    /* a thread is in a method that has given up the interpreter's lock */
} Md5;

static Md5 *
make(PyTypeObject *type)
{
    Md5 *self = (Md5 *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self != NULL) {
        md5_open(&self->message);
    }
    return self;
}

static PyObject *
md5_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    if (PyTuple_Size(arguments) > 0 || (keywords != NULL && PyDict_Size(keywords) > 0)) {
        PyErr_SetString(PyExc_TypeError, "Md5 takes no arguments");
        return NULL;
    }
    return (PyObject *)make(type);
}

static void
md5_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);

    md5_close(&((Md5 *)object)->message);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static bool
is_busy(const Md5 *self)
{
    if (self->is_busy) {
        PyErr_SetString(PyExc_RuntimeError, "another thread is at this Md5; each takes its bytes from one at a time");
    }
    return self->is_busy;
}

static PyObject *
md5_update(PyObject *object, PyObject *data)
{
    Md5 *self = (Md5 *)object;
    Py_buffer view;

    if (is_busy(self) || PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if (view.len >= WORTH_UNLOCKING) {
        self->is_busy = true;
        Py_BEGIN_ALLOW_THREADS;
        md5_begin(&self->message, view.buf, (size_t)view.len);
        md5_settle(&self->message);
        Py_END_ALLOW_THREADS;
        self->is_busy = false;
    } else if (view.len) {
        md5_begin(&self->message, view.buf, (size_t)view.len);
    }
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}

/* Write bytes, and digest them meanwhile; where they cannot be written they are not taken. */
static int
write_and_take(Message *message, int target, const uint8_t *bytes, size_t length)
{
    const Message before = *message;
    int error;

    md5_begin(message, bytes, length);
    error = write_all(target, bytes, length);
    md5_settle(message);
    if (error) {
        md5_copy(message, &before);
    }
    return error;
}

static PyObject *
md5_write(PyObject *object, PyObject *arguments)
{
    Md5 *self = (Md5 *)object;
    Py_buffer data;
    int target, error;

    if (is_busy(self) || !PyArg_ParseTuple(arguments, "iy*", &target, &data)) {
        return NULL;
    }
    self->is_busy = true;
    Py_BEGIN_ALLOW_THREADS;
    error = write_and_take(&self->message, target, data.buf, (size_t)data.len);
    Py_END_ALLOW_THREADS;
    self->is_busy = false;
    PyBuffer_Release(&data);
    return PyLong_FromLong(error);
}

typedef struct {
    size_t taken;
    bool is_dry;
    int read_error, write_error;
} Poured;

/* One half of the room is digested while the other is received into and written. */
static Poured
pour(Message *message, int source, int target, uint8_t *room, size_t size, size_t most, double seconds)
{
    Poured poured = {.taken = 0};
    const size_t half = size / 2;
    struct timespec now;
    double until;
    bool second = false;

    clock_gettime(CLOCK_MONOTONIC, &now);
    until = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec + seconds;
    while (poured.taken < most) {
        uint8_t *bytes = second ? room + half : room;
        const size_t wanted = most - poured.taken < half ? most - poured.taken : half;
        const ssize_t count = read(source, bytes, wanted);

        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) { /* an end too is for others to see, and to say what it means */
            poured.is_dry = true;
            poured.read_error = count == 0 || errno == EAGAIN || errno == EWOULDBLOCK ? 0 : errno;
            break;
        }
        poured.write_error = write_all(target, bytes, (size_t)count);
        if (poured.write_error) {
            break;
        }
        md5_begin(message, bytes, (size_t)count);
        second = !second;
        poured.taken += (size_t)count;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if ((double)now.tv_sec + 1e-9 * (double)now.tv_nsec >= until) {
            break;
        }
    }
    md5_settle(message);
    return poured;
}

static PyObject *
md5_pour(PyObject *object, PyObject *arguments)
{
    Md5 *self = (Md5 *)object;
    Py_buffer room;
    Py_ssize_t most;
    double seconds;
    int source, target;
    Poured poured;

    if (is_busy(self) || !PyArg_ParseTuple(arguments, "iiw*nd", &source, &target, &room, &most, &seconds)) {
        return NULL;
    }
    if (room.len < 2 || most < 0) {
        PyBuffer_Release(&room);
        PyErr_SetString(PyExc_ValueError, "expected room for at least two bytes, and no negative number of them");
        return NULL;
    }
    self->is_busy = true;
    Py_BEGIN_ALLOW_THREADS;
    poured = pour(&self->message, source, target, room.buf, (size_t)room.len, (size_t)most, seconds);
    Py_END_ALLOW_THREADS;
    self->is_busy = false;
    PyBuffer_Release(&room);
    return Py_BuildValue("nNii", (Py_ssize_t)poured.taken, PyBool_FromLong(poured.is_dry), poured.read_error,
                         poured.write_error);
}

/* Read a file from some place on, one half of the room while the other is digested; return the number of an error. */
static int
reread(Message *message, int source, off_t offset, uint8_t *room, size_t size, size_t most, size_t *taken)
{
    const size_t half = size / 2;
    bool second = false;
    int error = 0;

    while (*taken < most) {
        uint8_t *bytes = second ? room + half : room;
        const size_t wanted = most - *taken < half ? most - *taken : half;
        const ssize_t count = pread(source, bytes, wanted, offset + (off_t)*taken);

        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            error = count < 0 ? errno : 0;
            break;
        }
        md5_begin(message, bytes, (size_t)count);
        second = !second;
        *taken += (size_t)count;
    }
    md5_settle(message);
    return error;
}

static PyObject *
md5_read(PyObject *object, PyObject *arguments)
{
    Md5 *self = (Md5 *)object;
    Py_buffer room;
    Py_ssize_t most;
    long long offset;
    size_t taken = 0;
    int source, error;

    if (is_busy(self) || !PyArg_ParseTuple(arguments, "iLw*n", &source, &offset, &room, &most)) {
        return NULL;
    }
    if (room.len < 2 || most < 0 || offset < 0) {
        PyBuffer_Release(&room);
        PyErr_SetString(PyExc_ValueError, "expected room for at least two bytes, and no negative number of them");
        return NULL;
    }
    self->is_busy = true;
    Py_BEGIN_ALLOW_THREADS;
    error = reread(&self->message, source, (off_t)offset, room.buf, (size_t)room.len, (size_t)most, &taken);
    Py_END_ALLOW_THREADS;
    self->is_busy = false;
    PyBuffer_Release(&room);
    return Py_BuildValue("ni", (Py_ssize_t)taken, error);
}

static PyObject *
md5_hexdigest(PyObject *object, PyObject *Py_UNUSED(nothing))
{
    const Md5 *self = (const Md5 *)object;
    uint32_t digest[4];

    if (is_busy(self)) {
        return NULL;
    }
    md5_digest(&self->message, digest);
    return in_hex(digest);
}

static PyObject *
md5_copied(PyObject *object, PyObject *Py_UNUSED(nothing))
{
    const Md5 *self = (const Md5 *)object;
    Md5 *other = is_busy(self) ? NULL : make(Py_TYPE(object));

    if (other != NULL) {
        md5_copy(&other->message, &self->message);
    }
    return (PyObject *)other;
}

static PyMethodDef object_methods[] = {
    {"update", md5_update, METH_O, PyDoc_STR("Take the next bytes.")},
    {"write", md5_write, METH_VARARGS,
     PyDoc_STR("write(target, data)\n--\n\nWrite the next bytes to a descriptor and take them, or neither.\n\nReturns "
               "0, or the number of the error.")},
    {"pour", md5_pour, METH_VARARGS,
     PyDoc_STR("pour(source, target, room, most, seconds)\n--\n\nRead from one descriptor, write to another, and take "
               "what was written, until nothing is there for the moment.\n\nReturns how many bytes were taken, whether "
               "nothing more was there, and the numbers of the errors of reading and of writing.")},
    {"read", md5_read, METH_VARARGS,
     PyDoc_STR("read(source, offset, room, most)\n--\n\nRead a file from some place on and take that, as far as it "
               "goes.\n\nReturns how many bytes were taken, and the number of an error.")},
    {"hexdigest", md5_hexdigest, METH_NOARGS, PyDoc_STR("Return the digest of all bytes so far, in hex.")},
    {"copy", md5_copied, METH_NOARGS, PyDoc_STR("Return another that has taken the same bytes.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot object_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("MD5 of bytes as they pass, digested together with those of others.")},
    {Py_tp_new, md5_new},
    {Py_tp_dealloc, md5_dealloc},
    {Py_tp_methods, object_methods},
    {0, NULL},
};

static PyType_Spec object_spec = {
    .name = "framefetch.native._native.Md5",
    .basicsize = sizeof(Md5),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = object_slots,
};

/* -- many at a time ----------------------------------------------------------------------------------------------- */

/* Lists of bytes or paths, held as long as threads may look at them. */
typedef struct {
    Py_ssize_t count;
    Py_buffer *views;
    Py_ssize_t held;
} Held;

static void
let_go(Held *held)
{
    while (held->held > 0) {
        PyBuffer_Release(&held->views[--held->held]);
    }
    PyMem_Free(held->views);
    held->views = NULL;
}

/* Hold what a list has: bytes as they are, texts as the paths they are. */
static bool
hold(Held *held, PyObject *list, bool are_paths)
{
    held->held = 0;
    held->count = PyList_Check(list) ? PyList_Size(list) : -1;
    held->views = NULL;
    if (held->count < 0) {
        PyErr_SetString(PyExc_TypeError, "expected a list");
        return false;
    }
    held->views = PyMem_Calloc((size_t)held->count + 1, sizeof *held->views);
    if (held->views == NULL) {
        PyErr_NoMemory();
        return false;
    }
    for (; held->held < held->count; held->held++) {
        PyObject *item = PyList_GetItem(list, held->held), *made = NULL;
        int failed;

        if (are_paths && !PyUnicode_FSConverter(item, &made)) { /* refuses NUL, so that the text ends where it ends */
            item = NULL;
        }
        failed = item == NULL || PyObject_GetBuffer(are_paths ? made : item, &held->views[held->held], PyBUF_SIMPLE) < 0;
        Py_XDECREF(made); /* the view holds it */
        if (failed) {
            let_go(held);
            return false;
        }
    }
    return true;
}

static PyObject *
md5_of_all(PyObject *Py_UNUSED(module), PyObject *list)
{
    PyObject *result = NULL;
    Held bodies;
    Whole *wholes;

    if (!hold(&bodies, list, false)) {
        return NULL;
    }
    wholes = PyMem_Calloc((size_t)bodies.count + 1, sizeof *wholes);
    if (wholes == NULL) {
        let_go(&bodies);
        return PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; i < bodies.count; i++) {
        wholes[i].bytes = bodies.views[i].buf;
        wholes[i].length = (size_t)bodies.views[i].len;
    }
    Py_BEGIN_ALLOW_THREADS;
    md5_all(wholes, (size_t)bodies.count);
    Py_END_ALLOW_THREADS;
    result = PyList_New(bodies.count);
    for (Py_ssize_t i = 0; result != NULL && i < bodies.count; i++) {
        PyObject *text = in_hex(wholes[i].digest);
        if (text == NULL || PyList_SetItem(result, i, text) < 0) {
            Py_CLEAR(result);
        }
    }
    let_go(&bodies);
    PyMem_Free(wholes);
    return result;
}

/* What became of one file: what the system says of it, or the number of an error. */
typedef struct {
    int error;
    struct stat found;
} Outcome;

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
                                found->st_mtim.tv_sec * 1000000000LL + found->st_mtim.tv_nsec,
                                found->st_ctim.tv_sec * 1000000000LL + found->st_ctim.tv_nsec,
                                (unsigned long long)found->st_ino);
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
    if (!outcome.error && fstat(target, &outcome.found) < 0) {
        outcome.error = errno;
    }
    if (close(target) < 0 && !outcome.error && errno != EINTR) { /* a full disk or quota may show itself only here */
        outcome.error = errno;
    }
    if (outcome.error) {
        unlink(path);
    }
    return outcome;
}

/* Never over anything: not even over what comes there in this moment, where the file system can promise that. */
static Outcome
move_one(const char *part, const char *target)
{
    Outcome outcome = {.error = ESTALE};

    /* A network file system may remember a folder that is another one by now; it looks again. */
    for (int times = 0; times < 2 && outcome.error == ESTALE; times++) {
        outcome.error = renameat2(AT_FDCWD, part, AT_FDCWD, target, RENAME_NOREPLACE) < 0 ? errno : 0;
        if (outcome.error == EINVAL || outcome.error == ENOSYS || outcome.error == EOPNOTSUPP) {
            outcome.error = lstat(target, &outcome.found) == 0 ? EEXIST : errno;
            if (outcome.error == ENOENT) {
                outcome.error = rename(part, target) < 0 ? errno : 0;
            }
        }
    }
    if (!outcome.error && lstat(target, &outcome.found) < 0) {
        outcome.error = errno;
    }
    return outcome;
}

/* Do something with each pair of the items of two lists of the same length. */
static PyObject *
for_each(PyObject *arguments, bool moves)
{
    PyObject *first, *second, *result = NULL;
    Held paths, others = {.count = 0};
    Outcome *outcomes = NULL;

    if (!PyArg_ParseTuple(arguments, "OO", &first, &second) || !hold(&paths, first, true)) {
        return NULL;
    }
    if (hold(&others, second, moves)) {
        if (paths.count != others.count) {
            PyErr_SetString(PyExc_ValueError, "expected lists of the same length");
        } else if ((outcomes = PyMem_Calloc((size_t)paths.count + 1, sizeof *outcomes)) == NULL) {
            PyErr_NoMemory();
        } else {
            Py_BEGIN_ALLOW_THREADS;
            for (Py_ssize_t i = 0; i < paths.count; i++) {
                const char *path = paths.views[i].buf;
                outcomes[i] = moves ? move_one(path, others.views[i].buf) : write_one(path, &others.views[i]);
            }
            Py_END_ALLOW_THREADS;
            result = told(outcomes, paths.count);
            PyMem_Free(outcomes);
        }
        let_go(&others);
    }
    let_go(&paths);
    return result;
}

static PyObject *
write_new(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    return for_each(arguments, false);
}

static PyObject *
move_new(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    return for_each(arguments, true);
}

/* -- many sockets ------------------------------------------------------------------------------------------------- */

/* Copy the numbers of a list. */
static int *
numbers_of(PyObject *list, Py_ssize_t *count)
{
    int *numbers;

    if (!PyList_Check(list)) {
        PyErr_SetString(PyExc_TypeError, "expected a list");
        return NULL;
    }
    *count = PyList_Size(list);
    numbers = PyMem_Calloc((size_t)*count + 1, sizeof *numbers);
    if (numbers == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < *count; i++) {
        numbers[i] = (int)PyLong_AsLong(PyList_GetItem(list, i));
        if (numbers[i] == -1 && PyErr_Occurred()) {
            PyMem_Free(numbers);
            return NULL;
        }
    }
    return numbers;
}

/* Say something on a socket that is silent; return how many bytes it took, or -1 where it is not silent, or broken. */
static ssize_t
ask(int socket, const Py_buffer *words)
{
    struct pollfd asked = {.fd = socket, .events = POLLIN};
    ssize_t count;

    if (poll(&asked, 1, 0) != 0) {
        return -1;
    }
    count = write(socket, words->buf, (size_t)words->len);
    return count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) ? 0 : count;
}

static PyObject *
ask_all(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *list, *requests, *result = NULL;
    Py_ssize_t count;
    ssize_t *sent = NULL;
    Held words;
    int *sockets;

    if (!PyArg_ParseTuple(arguments, "OO", &list, &requests) || !hold(&words, requests, false)) {
        return NULL;
    }
    sockets = numbers_of(list, &count);
    if (sockets != NULL && count != words.count) {
        PyErr_SetString(PyExc_ValueError, "expected lists of the same length");
    } else if (sockets != NULL && (sent = PyMem_Calloc((size_t)count + 1, sizeof *sent)) == NULL) {
        PyErr_NoMemory();
    } else if (sockets != NULL) {
        Py_BEGIN_ALLOW_THREADS;
        for (Py_ssize_t i = 0; i < count; i++) {
            sent[i] = ask(sockets[i], &words.views[i]);
        }
        Py_END_ALLOW_THREADS;
        result = PyList_New(count);
        for (Py_ssize_t i = 0; result != NULL && i < count; i++) {
            PyObject *item = PyLong_FromSsize_t(sent[i]);
            if (item == NULL || PyList_SetItem(result, i, item) < 0) {
                Py_CLEAR(result);
            }
        }
        PyMem_Free(sent);
    }
    PyMem_Free(sockets);
    let_go(&words);
    return result;
}

enum { EARS = 64 }; /* sockets that are heard at a time, as `framefetch.sources.loan.EARS` knows */

typedef struct {
    int socket;
    ssize_t count; /* bytes, or the number of an error below zero */
} Heard;

/* Wait, and read what has come as long as there is room; return from how many sockets. */
static int
hear(int poll, int milliseconds, uint8_t *room, size_t size, Heard heard[EARS])
{
    struct epoll_event events[EARS];
    int count, done = 0;

    do {
        count = epoll_wait(poll, events, EARS, milliseconds);
    } while (count < 0 && errno == EINTR && milliseconds < 0);
    for (; done < count && size > 0; done++) {
        const ssize_t got = read(events[done].data.fd, room, size);
        heard[done] = (Heard){.socket = events[done].data.fd, .count = got < 0 ? -errno : got};
        room += got < 0 ? 0 : got;
        size -= got < 0 ? 0 : (size_t)got;
    }
    return done;
}

static PyObject *
hear_any(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *listener, *result;
    const char *next;
    Heard heard[EARS];
    Py_buffer room;
    int poll, count;
    double seconds;

    if (!PyArg_ParseTuple(arguments, "Odw*", &listener, &seconds, &room)) {
        return NULL;
    }
    poll = PyObject_AsFileDescriptor(listener);
    if (poll < 0) {
        PyBuffer_Release(&room);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS;
    count = hear(poll, seconds < 0 ? -1 : (int)(seconds * 1000 + 0.999), room.buf, (size_t)room.len, heard);
    Py_END_ALLOW_THREADS;
    result = PyList_New(count);
    next = room.buf;
    for (int i = 0; result != NULL && i < count; i++) {
        const ssize_t length = heard[i].count;
        PyObject *item = length < 0 ? Py_BuildValue("in", heard[i].socket, (Py_ssize_t)-length)
                                    : Py_BuildValue("iy#", heard[i].socket, next, (Py_ssize_t)length);
        next += length < 0 ? 0 : length;
        if (item == NULL || PyList_SetItem(result, i, item) < 0) {
            Py_CLEAR(result);
        }
    }
    PyBuffer_Release(&room);
    return result;
}

/* -- one plain answer --------------------------------------------------------------------------------------------- */

/* RFC 9110 section 5.6.2. */
static bool
is_token(uint8_t byte)
{
    return (byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z') ||
           (byte != 0 && strchr("!#$%&'*+-.^_`|~", byte) != NULL);
}

static bool
is_text(uint8_t byte)
{
    return byte == '\t' || (byte >= ' ' && byte != 0x7f);
}

typedef struct {
    const uint8_t *start, *end;
} Words;

/* Whether words are these, which are in lower case; in ASCII, whatever the locale holds for one letter in two cases. */
static bool
are(Words words, const char *these)
{
    const uint8_t *word = words.start;

    for (; word < words.end && *these; word++, these++) {
        if ((*word >= 'A' && *word <= 'Z' ? *word + ('a' - 'A') : *word) != (uint8_t)*these) {
            return false;
        }
    }
    return word == words.end && !*these;
}

/* Take a line off the beginning of a head, without its end; false where none is whole, or it has what no line has. */
static bool
next_line(Words *head, Words *line)
{
    enum { LONGEST = 8190 };

    line->start = head->start;
    while (head->start < head->end && is_text(*head->start)) {
        head->start++;
    }
    line->end = head->start;
    if (head->end - head->start < 2 || head->start[0] != '\r' || head->start[1] != '\n') {
        return false;
    }
    head->start += 2;
    return line->end - line->start <= LONGEST;
}

/* Split a line into the name of a field and its value; false where it is none. */
static bool
split_field(Words line, Words *name, Words *value)
{
    enum { LONGEST = 256 };

    name->start = name->end = line.start;
    while (name->end < line.end && is_token(*name->end)) {
        name->end++;
    }
    if (name->end == name->start || name->end - name->start > LONGEST || name->end == line.end || *name->end != ':') {
        return false;
    }
    value->start = name->end + 1;
    value->end = line.end;
    while (value->start < value->end && (*value->start == ' ' || *value->start == '\t')) {
        value->start++;
    }
    while (value->end > value->start && (value->end[-1] == ' ' || value->end[-1] == '\t')) {
        value->end--;
    }
    return true;
}

/* Read a length; false where it is none, or larger than any file. */
static bool
read_length(Words digits, size_t *length)
{
    *length = 0;
    for (const uint8_t *digit = digits.start; digit < digits.end; digit++) {
        if (*digit < '0' || *digit > '9') {
            return false;
        }
        *length = *length * 10 + (size_t)(*digit - '0');
    }
    return digits.end > digits.start && digits.end - digits.start <= 18;
}

/* Read a head to its end; false where anything about it needs more care. */
static bool
read_plain(Words *bytes, size_t *length, Words *tag)
{
    static const char status[] = "HTTP/1.1 200";
    bool has_length = false;
    Words line, name, value;

    if (!next_line(bytes, &line) || (size_t)(line.end - line.start) < sizeof status - 1 ||
        memcmp(line.start, status, sizeof status - 1) != 0 ||
        (line.end - line.start > (ptrdiff_t)sizeof status - 1 && line.start[sizeof status - 1] != ' ')) {
        return false;
    }
    for (;;) {
        if (!next_line(bytes, &line)) {
            return false;
        }
        if (line.start == line.end) {
            return has_length;
        }
        if (!split_field(line, &name, &value)) {
            return false;
        }
        if (are(name, "content-length")) {
            if (has_length || !read_length(value, length)) {
                return false;
            }
            has_length = true;
        } else if (are(name, "etag")) {
            if (tag->start != NULL) {
                return false;
            }
            *tag = value;
        } else if (are(name, "transfer-encoding") || are(name, "content-encoding") || are(name, "set-cookie") ||
                   (are(name, "connection") && !are(value, "keep-alive"))) {
            return false;
        }
    }
}

static PyObject *
plain_answer(PyObject *Py_UNUSED(module), PyObject *data)
{
    Words bytes, tag = {.start = NULL, .end = NULL};
    PyObject *result = NULL;
    Py_buffer view;
    size_t length = 0;

    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    bytes = (Words){.start = view.buf, .end = (const uint8_t *)view.buf + view.len};
    if (read_plain(&bytes, &length, &tag) && (size_t)(bytes.end - bytes.start) == length) {
        PyObject *text = tag.start == NULL ? Py_NewRef(Py_None)
                                           : PyUnicode_DecodeLatin1((const char *)tag.start, tag.end - tag.start, NULL);
        if (text != NULL) {
            result = Py_BuildValue("y#N", (const char *)bytes.start, (Py_ssize_t)length, text);
        }
    } else {
        result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&view);
    return result;
}

/* -- the module --------------------------------------------------------------------------------------------------- */

static int
begin(PyObject *module)
{
    PyObject *type;
    int failed;

    if (!md5_prepare()) {
        PyErr_SetString(PyExc_ImportError, "this processor has no AVX2");
        return -1;
    }
    type = PyType_FromModuleAndSpec(module, &object_spec, NULL);
    failed = type == NULL || PyModule_AddObjectRef(module, "Md5", type) < 0;
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyMethodDef functions[] = {
    {"md5_all", md5_of_all, METH_O, PyDoc_STR("Return the MD5 of each body of a list, in hex.")},
    {"write_new", write_new, METH_VARARGS,
     PyDoc_STR("write_new(paths, bodies)\n--\n\nWrite new files; one that fails is removed.\n\nReturns for each its "
               "mode, size, times of change of content and of itself, and inode, or the number of its error.")},
    {"ask_all", ask_all, METH_VARARGS,
     PyDoc_STR("ask_all(sockets, requests)\n--\n\nSend something on each socket that does not block and is silent.\n\n"
               "Returns for each how many bytes it took, or -1 where it is not silent, or broken.")},
    {"hear_any", hear_any, METH_VARARGS,
     PyDoc_STR("hear_any(poll, seconds, room)\n--\n\nWait for what a poll object listens to, and read what has come, as "
               "long as there is room.\n\nReturns descriptors, each with its bytes, or the number of its error.")},
    {"plain_answer", plain_answer, METH_O,
     PyDoc_STR("plain_answer(data)\n--\n\nReturn body and entity tag of an answer that is whole, and of which nothing is "
               "in doubt; None of any other.")},
    {"move_new", move_new, METH_VARARGS,
     PyDoc_STR("move_new(parts, targets)\n--\n\nGive files other names, never ones that are taken (EEXIST).\n\nReturns "
               "for each the same as `write_new`, of what is there now.")},
    {NULL, NULL, 0, NULL},
};

#else

static int
begin(PyObject *Py_UNUSED(module))
{
    PyErr_SetString(PyExc_ImportError, "it is written for Linux on x86 processors");
    return -1;
}

static PyMethodDef functions[] = {{NULL, NULL, 0, NULL}};

#endif

static PyModuleDef_Slot slots[] = {{Py_mod_exec, begin}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = PyDoc_STR("What is done without the interpreter."),
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
