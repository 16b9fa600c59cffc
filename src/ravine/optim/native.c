/* Many small tensors at a time: how they lie in memory, and copies between them and one piece of memory.

   `ravine.optim.native` compiles this file and calls it with the GIL held. What it knows of a tensor it asks torch by
   DLPack's C exchange API, a table of functions that torch.Tensor carries, so it needs nothing of torch's own C++. */

#include <Python.h>
#include <ATen/dlpack.h>
#include <stdint.h>
#include <string.h>

enum { DIMS = 64, WORDS = 5 + 2 * DIMS }; /* torch has no tensors of more dimensions */

static DLPackDLTensorFromPyObjectNoSync view_of;

/* Whether torch's table, in a capsule, is one that this file was compiled for. */
int begin(PyObject *capsule)
{
    const DLPackExchangeAPI *api = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    if (!api || api->header.version.major != DLPACK_MAJOR_VERSION)
        return 0;
    view_of = api->dltensor_from_py_object_no_sync;
    return view_of != NULL;
}

/* Type, dtype, device, sizes and strides of a tensor as numbers, and its address; how many numbers, or -1. */
static int look(PyObject *tensor, int64_t *words, char **data)
{
    DLTensor view;
    int count = 0;
    if (view_of(tensor, &view) || view.ndim > DIMS || !view.strides && view.ndim) {
        PyErr_Clear();
        return -1;
    }
    words[count++] = (int64_t)(intptr_t)Py_TYPE(tensor);
    words[count++] = (int64_t)view.dtype.code << 32 | view.dtype.bits << 16 | view.dtype.lanes;
    words[count++] = view.device.device_type;
    words[count++] = view.device.device_id;
    words[count++] = view.ndim;
    for (int k = 0; k < view.ndim; ++k) {
        words[count++] = view.shape[k];
        words[count++] = view.strides[k];
    }
    *data = (char *)view.data + view.byte_offset;
    return count;
}

/* Write how the tensors of a list lie into `known`, if that is not NULL, and their addresses into `data`; how many
   numbers that takes, or -1 if one of them has no address, as a sparse one, or if it is no list. */
int64_t record(PyObject *tensors, int64_t *known, char **data)
{
    int64_t total = 0, words[WORDS];
    if (!PyList_Check(tensors))
        return -1;
    for (Py_ssize_t k = 0; k < PyList_GET_SIZE(tensors); ++k) {
        int count = look(PyList_GET_ITEM(tensors, k), words, &data[k]);
        if (count < 0)
            return -1;
        if (known)
            memcpy(known + total, words, count * sizeof *words);
        total += count;
    }
    return total;
}

/* Whether as many tensors as were recorded lie as they did; their addresses, which may be others, go into `data`. */
int lie_as(PyObject *tensors, const int64_t *known, char **data)
{
    int64_t words[WORDS];
    for (Py_ssize_t k = 0; k < PyList_GET_SIZE(tensors); ++k) {
        int count = look(PyList_GET_ITEM(tensors, k), words, &data[k]);
        if (count < 0 || memcmp(known, words, count * sizeof *words))
            return 0;
        known += count;
    }
    return 1;
}

/* The tensors data[at[0]], data[at[1]], ... fill `whole` from byte ends[0] = 0 to ends[1], from there to ends[2], ... */

void gather(char *const *data, const int64_t *at, const int64_t *ends, int64_t count, char *whole, int threads)
{
#pragma omp parallel for num_threads(threads)
    for (int64_t k = 0; k < count; ++k)
        memcpy(whole + ends[k], data[at[k]], ends[k + 1] - ends[k]);
}

void scatter(char *const *data, const int64_t *at, const int64_t *ends, int64_t count, const char *whole, int threads)
{
#pragma omp parallel for num_threads(threads)
    for (int64_t k = 0; k < count; ++k)
        memcpy(data[at[k]], whole + ends[k], ends[k + 1] - ends[k]);
}

/* To each tensor is added what `whole` holds for it. */

#define ADD(NAME, TYPE)                                                                                               \
    void NAME(char *const *data, const int64_t *at, const int64_t *ends, int64_t count, const char *whole,            \
              int threads)                                                                                            \
    {                                                                                                                 \
        _Pragma("omp parallel for num_threads(threads)")                                                              \
        for (int64_t k = 0; k < count; ++k) {                                                                         \
            TYPE *to = (TYPE *)data[at[k]];                                                                           \
            const TYPE *from = (const TYPE *)(whole + ends[k]);                                                       \
            for (int64_t i = 0; i < (ends[k + 1] - ends[k]) / (int64_t)sizeof(TYPE); ++i)                             \
                to[i] += from[i];                                                                                     \
        }                                                                                                             \
    }

ADD(add_float, float)
ADD(add_double, double)
