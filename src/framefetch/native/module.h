/* What the parts of the module share: see `module.c`. */
#ifndef FRAMEFETCH_MODULE_H
#define FRAMEFETCH_MODULE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#if defined(__x86_64__) && defined(__GNUC__) && defined(__linux__)
#define CAN_BE_NATIVE 1

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Lists of bytes or paths, held as long as threads may look at them. */
typedef struct {
    Py_ssize_t count;
    Py_buffer *views;
    Py_ssize_t held;
} Held;

/* Hold what a list has: bytes as they are, texts as the paths they are; false with an exception. */
bool hold(Held *held, PyObject *list, bool are_paths);
void let_go(Held *held);

/* Write all bytes; return 0, or the number of the error. */
int write_all(int target, const uint8_t *bytes, size_t length);

bool turns_prepare(void);
/* Take one's turn, and the interpreter's lock back; give both up. */
void turn_begin(PyThreadState *unlocked);
PyThreadState *turn_end(void);

/* What Python calls. */
extern PyType_Spec md5_spec;
PyObject *in_turn(PyObject *module, PyObject *arguments);
PyObject *md5_of_all(PyObject *module, PyObject *list);
PyObject *write_new(PyObject *module, PyObject *arguments);
PyObject *move_new(PyObject *module, PyObject *arguments);
PyObject *ask_all(PyObject *module, PyObject *arguments);
PyObject *hear_any(PyObject *module, PyObject *arguments);
PyObject *plain_answer(PyObject *module, PyObject *data);

#endif
#endif
