/* Many sockets at a time: asked, and heard. */
#include "module.h"

#ifdef CAN_BE_NATIVE

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

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

PyObject *
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

/* Wait, and read what has come as long as there is room; return from how many sockets, or -1 with errno. */
static int
hear(int poll, int milliseconds, uint8_t *room, size_t size, Heard heard[EARS])
{
    struct epoll_event events[EARS];
    int count, done = 0;

    do {
        count = epoll_wait(poll, events, EARS, milliseconds);
    } while (count < 0 && errno == EINTR && milliseconds < 0);
    if (count < 0 && errno != EINTR) {
        return -1;
    }
    for (; done < count && size > 0; done++) {
        const ssize_t got = read(events[done].data.fd, room, size);
        heard[done] = (Heard){.socket = events[done].data.fd, .count = got < 0 ? -errno : got};
        room += got < 0 ? 0 : got;
        size -= got < 0 ? 0 : (size_t)got;
    }
    return done;
}

/* A wait as the system wants it: rounded up, below zero for ever, and never longer than it can count. */
static int
milliseconds(double seconds)
{
    if (seconds < 0) {
        return -1;
    }
    return seconds < INT_MAX / 1000 ? (int)(seconds * 1000 + 0.999) : INT_MAX;
}

PyObject *
hear_any(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *listener, *result;
    const char *next;
    Heard heard[EARS];
    Py_buffer room;
    int poll, count, error;
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
    count = hear(poll, milliseconds(seconds), room.buf, (size_t)room.len, heard);
    error = errno;
    Py_END_ALLOW_THREADS;
    if (count < 0) {
        PyBuffer_Release(&room);
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
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

#endif
