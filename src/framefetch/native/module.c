/* What is done without the interpreter.
 *
 * Python gives its lock up for every call of the system, and gets it back late where other threads have work: what
 * lies between the calls is little, the changes of thread are not. So what belongs together is done here at one go:
 * from a socket into a file, digested on the way (`digest.c`, by `md5.c`); many sockets asked and heard (`sockets.c`),
 * and what they say understood where it is plain (`answer.c`); many small files written, and moved to their names
 * (`files.c`). What needs the interpreter all the same is done by one thread at a time (`turns.c`). What is to be done,
 * and what follows from how it went, is decided in Python; `framefetch.native.plain` does the same there, a call at a
 * time, where this module cannot be had.
 */
#include "module.h"

#ifdef CAN_BE_NATIVE

#include "md5.h"

#include <errno.h>
#include <unistd.h>

int
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

void
let_go(Held *held)
{
    while (held->held > 0) {
        PyBuffer_Release(&held->views[--held->held]);
    }
    PyMem_Free(held->views);
    held->views = NULL;
}

bool
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

        /* There may be none by now: what makes a path of an item is somebody's. What makes it here refuses NUL, so that
           the text ends where it ends. */
        if (item != NULL && are_paths && !PyUnicode_FSConverter(item, &made)) {
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

static int
begin(PyObject *module)
{
    PyObject *type;
    int failed;

    if (!md5_prepare()) {
        PyErr_SetString(PyExc_ImportError, "this processor has no AVX2");
        return -1;
    }
    if (!turns_prepare()) {
        PyErr_NoMemory();
        return -1;
    }
    type = PyType_FromModuleAndSpec(module, &md5_spec, NULL);
    failed = type == NULL || PyModule_AddObjectRef(module, "Md5", type) < 0;
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyMethodDef functions[] = {
    {"in_turn", in_turn, METH_VARARGS,
     PyDoc_STR("in_turn(function, argument)\n--\n\nCall a function and return what it returns, while no other thread "
               "does, nor `pour` calls one; not from within one.")},
    {"md5_all", md5_of_all, METH_O, PyDoc_STR("Return the MD5 of each body of a list, in hex.")},
    {"write_new", write_new, METH_VARARGS,
     PyDoc_STR("write_new(paths, bodies, patience=0.0005)\n--\n\nWrite new files; one that fails is removed. Several "
               "threads do it where a file takes longer than so many seconds.\n\nReturns for each its mode, size, times "
               "of change of content and of itself, and inode, or the number of its error.")},
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
     PyDoc_STR("move_new(parts, targets, patience=0.0005)\n--\n\nGive files other names, never ones that are taken "
               "(EEXIST). Several threads do it as with `write_new`.\n\nReturns for each the same as that, of what is "
               "there now.")},
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
