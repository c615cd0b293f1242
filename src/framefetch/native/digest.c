/* MD5 of bytes as they pass: what Python has of `md5.c`, and what is digested on its way into a file. */
#include "module.h"

#ifdef CAN_BE_NATIVE

#include "md5.h"

#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    WORTH_UNLOCKING = 2048, /* bytes to be digested from which on the interpreter's lock is given up */
    LEAST_ROOM = MD5_PIECES * (MD5_BLOCK + 1),
};

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

/* -- as bytes pass ------------------------------------------------------------------------------------------------ */

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

    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if (is_busy(self)) {
        PyBuffer_Release(&view);
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

    md5_enter(); /* it begins once, but its like, one block after the other, are many */
    md5_begin(message, bytes, length);
    error = write_all(target, bytes, length);
    md5_settle(message);
    md5_leave();
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

    if (!PyArg_ParseTuple(arguments, "iy*", &target, &data)) {
        return NULL;
    }
    if (is_busy(self)) { /* now: what makes numbers of arguments is somebody's, and may have taken its time */
        PyBuffer_Release(&data);
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

/* Where bytes come from: a descriptor, or something of Python's that is called with a view of room and returns how many
 * it has put there, which needs the interpreter, and is done in turn. */
typedef struct {
    int descriptor;
    PyObject *draw, *view; /* the view is of the whole room, and a part of it keeps the room alive */
    PyThreadState *unlocked;
    bool raised;
} Source;

/* Have Python put bytes into the room from some place on; return how many, or -1 with an exception. */
static Py_ssize_t
drawn(const Source *source, size_t start, size_t wanted)
{
    PyObject *part = PySequence_GetSlice(source->view, (Py_ssize_t)start, (Py_ssize_t)(start + wanted));
    PyObject *said = part == NULL ? NULL : PyObject_CallFunctionObjArgs(source->draw, part, NULL);
    Py_ssize_t count = said == NULL ? -1 : PyLong_AsSsize_t(said);

    if (count > (Py_ssize_t)wanted || (count < 0 && !PyErr_Occurred())) {
        PyErr_SetString(PyExc_ValueError, "expected the number of bytes that were put into the room");
        count = -1;
    }
    Py_XDECREF(said);
    Py_XDECREF(part);
    return count;
}

static ssize_t
receive(Source *source, uint8_t *room, size_t start, size_t wanted)
{
    ssize_t count;

    if (source->draw == NULL) {
        return read(source->descriptor, room + start, wanted);
    }
    turn_begin(source->unlocked);
    count = drawn(source, start, wanted);
    source->raised = count < 0;
    source->unlocked = turn_end();
    return source->raised ? 0 : count;
}

typedef struct {
    size_t taken;
    bool is_dry;
    int read_error, write_error;
} Poured;

/* Where the bytes of a piece begin: before them is what the message needs. */
static size_t
place_of(size_t number, size_t size)
{
    return size / MD5_PIECES * (number % MD5_PIECES) + MD5_BLOCK;
}

/* Pieces are digested while others are received and written; where the source raises, nothing is taken. */
static Poured
pour(Message *message, Source *source, int target, uint8_t *room, size_t size, size_t most, double seconds)
{
    const Message before = *message;
    Poured poured = {.taken = 0};
    const size_t piece = size / MD5_PIECES - MD5_BLOCK;
    size_t number = 0;
    struct timespec now;
    double until;

    md5_enter();
    clock_gettime(CLOCK_MONOTONIC, &now);
    until = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec + seconds;
    while (poured.taken < most) {
        const size_t place = place_of(number, size);
        const size_t wanted = most - poured.taken < piece ? most - poured.taken : piece;
        const ssize_t count = receive(source, room, place, wanted);

        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) { /* an end too is for others to see, and to say what it means */
            poured.is_dry = true;
            poured.read_error = count == 0 || errno == EAGAIN || errno == EWOULDBLOCK ? 0 : errno;
            break;
        }
        poured.write_error = write_all(target, room + place, (size_t)count);
        if (poured.write_error) {
            break;
        }
        md5_follow(message, room + place, (size_t)count);
        number++;
        poured.taken += (size_t)count;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if ((double)now.tv_sec + 1e-9 * (double)now.tv_nsec >= until) {
            break;
        }
    }
    md5_settle(message);
    md5_leave();
    if (source->raised) {
        md5_copy(message, &before);
    }
    return poured;
}

static PyObject *
md5_pour(PyObject *object, PyObject *arguments)
{
    Md5 *self = (Md5 *)object;
    Source source = {.descriptor = -1};
    PyObject *from;
    Py_buffer room;
    Py_ssize_t most;
    double seconds;
    int target;
    Poured poured;

    if (!PyArg_ParseTuple(arguments, "Oiw*nd", &from, &target, &room, &most, &seconds)) {
        return NULL;
    }
    if (room.len < LEAST_ROOM || most < 0) {
        PyErr_Format(PyExc_ValueError, "expected room for at least %d bytes, and no negative number of them", LEAST_ROOM);
    } else if (PyCallable_Check(from)) {
        source.draw = from;
        source.view = PyMemoryView_FromObject(room.obj);
    } else {
        source.descriptor = PyObject_AsFileDescriptor(from);
    }
    if (PyErr_Occurred() || is_busy(self)) {
        Py_XDECREF(source.view);
        PyBuffer_Release(&room);
        return NULL;
    }
    self->is_busy = true;
    source.unlocked = PyEval_SaveThread();
    poured = pour(&self->message, &source, target, room.buf, (size_t)room.len, (size_t)most, seconds);
    PyEval_RestoreThread(source.unlocked);
    self->is_busy = false;
    Py_XDECREF(source.view);
    PyBuffer_Release(&room);
    if (source.raised) {
        return NULL;
    }
    return Py_BuildValue("nNii", (Py_ssize_t)poured.taken, PyBool_FromLong(poured.is_dry), poured.read_error,
                         poured.write_error);
}

/* Read a file from some place on, pieces of it while others are digested; return the number of an error. */
static int
reread(Message *message, int source, off_t offset, uint8_t *room, size_t size, size_t most, size_t *taken)
{
    const size_t piece = size / MD5_PIECES - MD5_BLOCK;
    size_t number = 0;
    int error = 0;

    md5_enter();
    while (*taken < most) {
        uint8_t *bytes = room + place_of(number, size);
        const size_t wanted = most - *taken < piece ? most - *taken : piece;
        const ssize_t count = pread(source, bytes, wanted, offset + (off_t)*taken);

        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            error = count < 0 ? errno : 0;
            break;
        }
        md5_follow(message, bytes, (size_t)count);
        number++;
        *taken += (size_t)count;
    }
    md5_settle(message);
    md5_leave();
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

    if (!PyArg_ParseTuple(arguments, "iLw*n", &source, &offset, &room, &most)) {
        return NULL;
    }
    if (is_busy(self)) {
        PyBuffer_Release(&room);
        return NULL;
    }
    if (room.len < LEAST_ROOM || most < 0 || offset < 0) {
        PyBuffer_Release(&room);
        PyErr_Format(PyExc_ValueError, "expected room for at least %d bytes, and no negative number of them", LEAST_ROOM);
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
     PyDoc_STR("pour(source, target, room, most, seconds)\n--\n\nRead from a descriptor, or have a function put bytes "
               "into some room when it is its turn, write them to another, and take what was written, until nothing is "
               "there for the moment.\n\nReturns how many bytes were taken, whether nothing more was there, and the "
               "numbers of the errors of reading and of writing.")},
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

PyType_Spec md5_spec = {
    .name = "framefetch.native._native.Md5",
    .basicsize = sizeof(Md5),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = object_slots,
};

/* -- many at once ------------------------------------------------------------------------------------------------- */

PyObject *
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

#endif
