/* Copies between many small tensors and one piece of memory.

   `ravine.optim.native` compiles this file and calls it with the GIL held. Where a tensor is, and how large, it asks
   torch by DLPack's C exchange API, a table of functions that torch.Tensor carries: it needs none of torch's own C++.
   The caller sees to it that the tensors are contiguous, in the memory of the CPU, and of the dtype of the piece. */

#include <Python.h>
#include <ATen/dlpack.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static DLPackDLTensorFromPyObjectNoSync view_of;

/* Whether torch's table, in a capsule, is one that this file was compiled for. */
int begin(PyObject *capsule)
{
    const DLPackExchangeAPI *api = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    PyErr_Clear();
    if (!api || api->header.version.major != DLPACK_MAJOR_VERSION)
        return 0;
    view_of = api->dltensor_from_py_object_no_sync;
    return view_of != NULL;
}

typedef struct {
    char *data; /* of a tensor */
    char *part; /* of the piece */
    int64_t size;
} Pair;

/* The tensors of a list, and what of a piece of so many bytes belongs to each. NULL, and Python's error is set, if they
   are not as large as the piece together. */
static Pair *pairs_of(PyObject *tensors, char *piece, int64_t bytes)
{
    Py_ssize_t count = PyList_Size(tensors);
    Pair *pairs = count < 0 ? NULL : malloc((count ? count : 1) * sizeof *pairs);
    if (!pairs)
        return count < 0 ? NULL : (Pair *)PyErr_NoMemory();
    char *part = piece;
    for (Py_ssize_t k = 0; k < count; ++k) {
        DLTensor view;
        if (view_of(PyList_GET_ITEM(tensors, k), &view)) {
            free(pairs);
            return NULL;
        }
        int64_t size = view.dtype.bits / 8;
        for (int dim = 0; dim < view.ndim; ++dim)
            size *= view.shape[dim];
        if (size && !view.data) {
            free(pairs);
            PyErr_SetString(PyExc_ValueError, "a tensor has no memory");
            return NULL;
        }
        pairs[k] = (Pair){(char *)view.data + view.byte_offset, part, size};
        part += size;
    }
    if (part - piece != bytes) {
        free(pairs);
        PyErr_SetString(PyExc_ValueError, "the tensors and the piece differ in size");
        return NULL;
    }
    return pairs;
}

#ifdef _OPENMP
#define SHARED_AMONG_THREADS _Pragma("omp parallel for num_threads(threads) if (bytes > 65536)")
#else
#define SHARED_AMONG_THREADS (void)threads;
#endif

/* Each of these does something for every pair, and returns 0; -1 if there is a Python error. */
#define FOR_EACH_PAIR(NAME, ACTION)                                                                                    \
    int NAME(PyObject *tensors, char *piece, int64_t bytes, int threads)                                               \
    {                                                                                                                  \
        Pair *pairs = pairs_of(tensors, piece, bytes);                                                                 \
        if (!pairs)                                                                                                    \
            return -1;                                                                                                 \
        Py_ssize_t count = PyList_GET_SIZE(tensors);                                                                   \
        SHARED_AMONG_THREADS                                                                                           \
        for (Py_ssize_t k = 0; k < count; ++k) {                                                                       \
            Pair pair = pairs[k];                                                                                      \
            if (pair.size) {                                                                                           \
                ACTION                                                                                                 \
            }                                                                                                          \
        }                                                                                                              \
        free(pairs);                                                                                                   \
        return 0;                                                                                                      \
    }

#define ADD(TYPE)                                                                                                      \
    TYPE *to = (TYPE *)pair.data;                                                                                      \
    const TYPE *from = (const TYPE *)pair.part;                                                                        \
    for (int64_t i = 0; i < pair.size / (int64_t)sizeof(TYPE); ++i)                                                    \
        to[i] += from[i];

FOR_EACH_PAIR(gather, memcpy(pair.part, pair.data, pair.size);)
FOR_EACH_PAIR(scatter, memcpy(pair.data, pair.part, pair.size);)
FOR_EACH_PAIR(add_float, ADD(float))
FOR_EACH_PAIR(add_double, ADD(double))
