/* What the tests of weights files share: sample tensors, .pth files of any pickle, and how much
 * memory a file may take. */
#ifndef RETORT_TESTS_TORCH_SAMPLE_H
#define RETORT_TESTS_TORCH_SAMPLE_H

#include <criterion/criterion.h>

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "checkpoints/safetensors.h"
#include "checkpoints/zip.h"
#include "tests/support.h"

/* The file under test. */
static char folder[256], path[300];

static inline void set_up(const char *name)
{
    test_folder(name, folder, sizeof folder);
    snprintf(path, sizeof path, "%s/file.pth", folder);
}

static inline int no_fsync(void *context, int fd)
{
    (void)context, (void)fd;
    return 0;
}

/* Thousands of files are written here; none must survive a power cut. */
static inline FileOps quick_ops(void)
{
    FileOps ops = file_ops_system;
    ops.fsync = no_fsync;
    return ops;
}

static inline void put_bytes(const void *content, size_t n_bytes)
{
    FileOps ops = quick_ops();
    cr_assert_eq(file_replace(&ops, path, content, n_bytes), OK, "%s", status_message());
}

static inline long peak_kib(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

/* No file may take more than four times its size and 64 MB beyond `before`. Each test runs in a
 * process of its own, so that another's peak hides nothing; under AddressSanitizer, whose own
 * memory is counted too, nothing can be said. */
static inline void expect_small(long before_kib, size_t file_bytes)
{
#ifdef __SANITIZE_ADDRESS__
    (void)before_kib, (void)file_bytes;
    return;
#endif
    long grown = peak_kib() - before_kib, limit = (64 << 10) + 4 * (long)(file_bytes >> 10);
    cr_expect_leq(grown, limit, "%ld KiB of memory for a file of %zu bytes", grown, file_bytes);
}

static float weight[6] = {1.5f, -2.0f, 0.0f, 3.25f, 1e-30f, 7.0f};
static double fraction[2] = {1.0 / 3, -0.0};
static int64_t count = -5;
static int32_t whole[2] = {INT32_MIN, 7};
static uint16_t half[3] = {0x3f80, 0x4000, 0x7f80};
static uint8_t flag[1] = {200};

static const NamedTensor sample[] = {
    {"flag", {DT_U8, SHAPE(1), flag}},
    {"half", {DT_BF16, SHAPE(3, 1), half}},
    {"other_half", {DT_F16, SHAPE(3), half}},
    {"layer.weight", {DT_F32, SHAPE(2, 3), weight}},
    {"n\xc3\xa4me \"quoted\"", {DT_I64, {.rank = 0}, &count}},
    {"whole", {DT_I32, SHAPE(1, 2, 1), whole}},
    {"fraction", {DT_F64, SHAPE(2), fraction}},
    {"empty", {DT_F32, SHAPE(4, 0), NULL}},
};
enum { N_SAMPLE = sizeof sample / sizeof *sample };

static inline bool same_tensor(const NamedTensor *a, const NamedTensor *b)
{
    size_t n_bytes = tensor_bytes(&b->tensor);
    return !strcmp(a->name, b->name) && a->tensor.dtype == b->tensor.dtype &&
           shape_equal(a->tensor.shape, b->tensor.shape) &&
           (!n_bytes || !memcmp(a->tensor.data, b->tensor.data, n_bytes));
}

static inline bool is_sample(const NamedTensor *tensors, int n)
{
    for (int i = 0; i < n && i < N_SAMPLE; i++)
        if (!same_tensor(&tensors[i], &sample[i])) return false;
    return n == N_SAMPLE;
}

/* A .pth of a pickle and storage 0, the floats of `weight`. */
static inline void write_pickle(const char *pickle, size_t n_bytes)
{
    FileOps ops = quick_ops();
    ZipWriter *zip;
    cr_assert_eq(zip_writer_open(&ops, path, &zip), OK, "%s", status_message());
    zip_writer_put(zip, "archive/data.pkl", pickle, n_bytes);
    zip_writer_put(zip, "archive/data/0", weight, sizeof weight);
    cr_assert_eq(zip_writer_commit(zip), OK, "%s", status_message());
}

/* Pickles by hand: instructions as strings, counts and lengths within them. */
#define NAME(length, text) "X" length "\0\0\0" text
#define STORAGE(class, key, count) \
    "(" NAME("\7", "storage") "c" class "\n" NAME("\1", key) NAME("\3", "cpu") count "tQ"
#define FLOATS STORAGE("torch\nFloatStorage", "0", "K\6")
#define REBUILD "ctorch._utils\n_rebuild_tensor_v2\n("
#define TENSOR(storage, offset, size, stride) \
    REBUILD storage offset size stride "\x89" \
                                       "}tR"
#define GOOD TENSOR(FLOATS, "K\0", "K\2K\3\x86", "K\3K\1\x86")
#define W(value) "\x80\2}(" NAME("\1", "w") value "u."
#define LONG(bytes) "\x8a\10" bytes
#define HUGE LONG("\0\0\0\0\0\0\0\x40") /* 2^62 */
#define MINUS_1 "J\xff\xff\xff\xff"

#endif
