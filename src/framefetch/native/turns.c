/* What needs the interpreter again and again, one thread at a time.
 *
 * OpenSSL as Python has it opens a record of 16 KiB at a time, and the interpreter's lock is let go for each. Whoever
 * wants that lock meanwhile, if only to find out that it is not its turn, has it change hands, and each change wakes a
 * thread and puts another one to sleep. So turns are waited for without it.
 */
#include "module.h"

#ifdef CAN_BE_NATIVE

#include <pthread.h>

/* Taken before the interpreter's lock, and given back without it: so neither is waited for in vain. */
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

/* A child has nobody who would give it back: nobody forks within a turn. */
static void
forget(void)
{
    turn = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}

bool
turns_prepare(void)
{
    static bool is_prepared = false; /* there may be several interpreters */

    is_prepared = is_prepared || pthread_atfork(NULL, NULL, forget) == 0;
    return is_prepared;
}

void
turn_begin(PyThreadState *unlocked)
{
    pthread_mutex_lock(&turn);
    PyEval_RestoreThread(unlocked);
}

PyThreadState *
turn_end(void)
{
    PyThreadState *unlocked = PyEval_SaveThread();

    pthread_mutex_unlock(&turn);
    return unlocked;
}

PyObject *
in_turn(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *function, *argument, *result;

    if (!PyArg_ParseTuple(arguments, "OO", &function, &argument)) {
        return NULL;
    }
    turn_begin(PyEval_SaveThread());
    result = PyObject_CallFunctionObjArgs(function, argument, NULL);
    PyEval_RestoreThread(turn_end());
    return result;
}

#endif
