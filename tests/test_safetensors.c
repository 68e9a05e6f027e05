/* The safetensors reader and writer, and training states on top of them: what is written is read
 * back, what breaks a rule is refused with a message, and no damage to a file can do worse than
 * that.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/rng.h"
#include "checkpoints/safetensors.h"
#include "checkpoints/state.h"
#include "tests/support.h"

/* ---- helpers ---- */

static char folder[256], path[300];

static void set_up(const char *name)
{
    test_folder(name, folder, sizeof folder);
    snprintf(path, sizeof path, "%s/file.safetensors", folder);
}

/* A file of `header` (its length is put before it) and the data bytes 0, 1, 2, ... */
static void write_raw(const char *header, size_t n_data)
{
    size_t header_bytes = strlen(header), total = 8 + header_bytes + n_data;
    char *content = mem_alloc(total);
    uint64_t length = header_bytes;
    memcpy(content, &length, 8);
    memcpy(content + 8, header, header_bytes);
    for (size_t i = 0; i < n_data; i++) content[8 + header_bytes + i] = (char)i;
    cr_assert_eq(file_replace(&file_ops_system, path, content, total), OK, "%s", status_message());
    free(content);
}

static float weight[6] = {1.5f, -2.0f, 0.0f, 3.25f, 1e-30f, 7.0f};
static int64_t count = -5;
static uint16_t half[3] = {0x3f80, 0x4000, 0x7f80};
static uint8_t flag[1] = {200};

/* An order that a naive writer would misalign: one byte, three 2-byte values, then 4 and 8 byte
 * ones. */
static const NamedTensor sample[] = {
    {"flag", {DT_U8, SHAPE(1), flag}},
    {"half", {DT_BF16, SHAPE(3, 1), half}},
    {"layer.weight", {DT_F32, SHAPE(2, 3), weight}},
    {"n\xc3\xa4me \"quoted\"", {DT_I64, {.rank = 0}, &count}},
    {"empty", {DT_F32, SHAPE(4, 0), NULL}},
};
enum { N_SAMPLE = sizeof sample / sizeof *sample };

static void assert_sample(const SafeTensors *file)
{
    cr_assert_eq(file->n_tensors, N_SAMPLE);
    for (int i = 0; i < N_SAMPLE; i++) {
        const Tensor *got = &file->tensors[i].tensor, *wanted = &sample[i].tensor;
        cr_assert_str_eq(file->tensors[i].name, sample[i].name);
        cr_assert_eq(got->dtype, wanted->dtype);
        cr_assert(shape_equal(got->shape, wanted->shape));
        cr_assert_eq((uintptr_t)got->data % dtype_size(got->dtype), 0);
        if (tensor_bytes(got)) cr_assert_eq(memcmp(got->data, wanted->data, tensor_bytes(got)), 0);
    }
}

/* ---- round trip ---- */

Test(safetensors, reads_what_it_wrote)
{
    set_up("safetensors_round_trip");
    const MetaPair meta[] = {{"made_by", "a \\ test\n"}, {"", "empty key"}};
    SafeTensors *file;
    cr_assert_eq(safetensors_write(path, N_SAMPLE, sample, 2, meta), OK, "%s", status_message());
    cr_assert_eq(safetensors_open(path, &file), OK, "%s", status_message());
    assert_sample(file);
    cr_assert_str_eq(safetensors_meta(file, "made_by"), "a \\ test\n");
    cr_assert_str_eq(safetensors_meta(file, ""), "empty key");
    cr_assert_null(safetensors_meta(file, "absent"));
    cr_assert_eq(safetensors_find(file, "layer.weight"), &file->tensors[2].tensor);
    cr_assert_null(safetensors_find(file, "layer.bias"));
    for (int i = 0; i < N_SAMPLE; i++)
        cr_assert_null(file->copies[i], "the writer left a tensor misaligned");
    safetensors_close(file);
}

Test(safetensors, no_tensors_at_all)
{
    set_up("safetensors_empty");
    SafeTensors *file;
    cr_assert_eq(safetensors_write(path, 0, NULL, 0, NULL), OK);
    cr_assert_eq(safetensors_open(path, &file), OK, "%s", status_message());
    cr_assert_eq(file->n_tensors, 0);
    safetensors_close(file);
}

Test(safetensors, misaligned_tensors_are_copied)
{
    set_up("safetensors_misaligned");
    write_raw("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
              "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[1,9]}}",
              9);
    SafeTensors *file;
    cr_assert_eq(safetensors_open(path, &file), OK, "%s", status_message());
    const Tensor *tensor = safetensors_find(file, "b");
    cr_assert_eq((uintptr_t)tensor->data % 4, 0);
    cr_assert_eq(memcmp(tensor->data, "\1\2\3\4\5\6\7\10", 8), 0);
    safetensors_close(file);
}

Test(safetensors, header_order_need_not_be_data_order_and_spaces_may_follow)
{
    set_up("safetensors_order");
    write_raw("{\"b\":{\"shape\":[1],\"data_offsets\":[4,8],\"dtype\":\"F32\"},"
              "\"a\":{\"dtype\":\"I32\",\"shape\":[1,1],\"data_offsets\":[0,4]}}     ",
              8);
    SafeTensors *file;
    cr_assert_eq(safetensors_open(path, &file), OK, "%s", status_message());
    cr_assert_str_eq(file->tensors[0].name, "b");
    cr_assert_eq(*(const char *)file->tensors[0].tensor.data, 4);
    cr_assert_eq(*(const char *)file->tensors[1].tensor.data, 0);
    safetensors_close(file);
}

/* ---- refusals ---- */

#define TENSOR(dtype, shape, offsets) \
    "{\"a\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define F32_2 "{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"

static const struct {
    const char *header;
    size_t n_data;
    const char *message; /* part of what must be said */
} hostile[] = {
    {"", 0, "does not start with"},
    {" {}", 0, "does not start with"},
    {"[]", 0, "does not start with"},
    {"{", 0, "not valid JSON"},
    {"{}x", 0, "not valid JSON"},
    {"{}{}", 0, "not valid JSON"},
    {"{\"a\":" F32_2 ",}", 8, "not valid JSON"},
    {"{\"a\" " F32_2 "}", 8, "not valid JSON"},
    {"{/* */}", 0, "not valid JSON"},
    {"{\"\xff\":" F32_2 "}", 8, "not valid JSON"},
    {"{\"a\\u0000b\":" F32_2 "}", 8, "zero byte"},
    {"{\"a\":3}", 0, "got a number"},
    {"{\"a\":null}", 0, "got null"},
    {"{\"a\":true}", 0, "got true"},
    {"{\"a\":\"F32\"}", 0, "got a string"},
    {"{\"a\":[]}", 0, "got a list"},
    {"{\"a\":{}}", 0, "has no dtype"},
    {"{\"a\":{\"dtype\":\"F32\"}}", 0, "has no shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[]}}", 0, "has no data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4],\"x\":1}}", 4,
     "unknown key 'x'"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4,
     "given twice"},
    {"{\"a\":" F32_2 ",\"a\":" F32_2 "}", 8, "'a' is given twice"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "__metadata__ is given twice"},
    {"{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0, "'k' is given twice"},
    {"{\"__metadata__\":{\"k\":1}}", 0, "got a number"},
    {"{\"__metadata__\":{\"k\":{}}}", 0, "got an object"},
    {"{\"__metadata__\":\"x\"}", 0, "got a string"},
    {"{\"__metadata__\":[]}", 0, "got a list"},
    {TENSOR("\"BOOL\"", "[1]", "[0,1]"), 1, "tensor a: dtype 'BOOL' is not supported"},
    {TENSOR("\"F8_E4M3\"", "[1]", "[0,1]"), 1, "F8_E4M3"},
    {TENSOR("\"f32\"", "[1]", "[0,4]"), 4, "dtype 'f32'"},
    {TENSOR("32", "[1]", "[0,4]"), 4, "got a number"},
    {TENSOR("[]", "[1]", "[0,4]"), 4, "got a list"},
    {TENSOR("\"F32\"", "1", "[0,4]"), 4, "got a number"},
    {TENSOR("\"F32\"", "{}", "[0,4]"), 4, "got an object"},
    {TENSOR("\"F32\"", "[[1]]", "[0,4]"), 4, "got a list"},
    {TENSOR("\"F32\"", "[\"1\"]", "[0,4]"), 4, "got a string"},
    {TENSOR("\"F32\"", "[-1]", "[0,4]"), 4, "negative"},
    {TENSOR("\"F32\"", "[1.0]", "[0,4]"), 4, "fraction"},
    {TENSOR("\"F32\"", "[1e0]", "[0,4]"), 4, "fraction"},
    {TENSOR("\"F32\"", "[9223372036854775808]", "[0,4]"), 4, "too large"},
    {TENSOR("\"F32\"", "[18446744073709551617]", "[0,4]"), 4, "too large"}, /* 2^64 + 1 */
    {TENSOR("\"F32\"", "[4611686018427387904]", "[0,0]"), 0, "too large"},
    {TENSOR("\"F32\"", "[4294967296,4294967296]", "[0,0]"), 0, "too large"},
    {TENSOR("\"F32\"", "[4611686018427387904,1]", "[0,0]"), 0, "too large"},
    {TENSOR("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "more than 8 dims"},
    {TENSOR("\"F32\"", "[1]", "[0]"), 4, "got fewer"},
    {TENSOR("\"F32\"", "[1]", "[]"), 4, "got fewer"},
    {TENSOR("\"F32\"", "[1]", "[0,4,4]"), 4, "third number"},
    {TENSOR("\"F32\"", "[1]", "[0,\"4\"]"), 4, "got a string"},
    {TENSOR("\"F32\"", "[1]", "[4,0]"), 4, "need 4 bytes"},
    {TENSOR("\"F32\"", "[1]", "[0,8]"), 8, "need 4 bytes"},
    {TENSOR("\"F32\"", "[1]", "[4,8]"), 8, "starts at 4, wanted 0"},
    {TENSOR("\"F32\"", "[1]", "[0,4]"), 5, "describes 4 bytes of data, the file holds 5"},
    {TENSOR("\"F32\"", "[1]", "[0,4]"), 3, "describes 4 bytes of data, the file holds 3"},
    {"{\"a\":" F32_2 ",\"b\":" F32_2 "}", 8, "starts at 0, wanted 8"},
    {"{\"a\":" F32_2 ",\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[7,9]}}", 9,
     "wanted 8"},
    {"{\"a\":" F32_2 ",\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[9,10]}}", 10,
     "wanted 8"},
    {"{}", 1, "describes 0 bytes"},
};

Test(safetensors, refuses_broken_headers)
{
    set_up("safetensors_hostile");
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        SafeTensors *file = NULL;
        write_raw(hostile[i].header, hostile[i].n_data);
        cr_expect_eq(safetensors_open(path, &file), E_FORMAT, "accepted: %s", hostile[i].header);
        cr_expect_not_null(strstr(status_message(), hostile[i].message),
                           "header %s\nsaid %s\nwanted %s", hostile[i].header, status_message(),
                           hostile[i].message);
        cr_expect_not_null(strstr(status_message(), path), "the message does not name the file");
        cr_expect_null(file);
    }
}

Test(safetensors, refuses_wrong_lengths)
{
    set_up("safetensors_length");
    const uint64_t lengths[] = {0, 3, 1000, 100000001, UINT64_MAX, (uint64_t)1 << 63};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        char content[10] = "........{}";
        SafeTensors *file;
        memcpy(content, &lengths[i], 8);
        cr_assert_eq(file_replace(&file_ops_system, path, content, 10), OK);
        cr_expect_eq(safetensors_open(path, &file), E_FORMAT, "length %llu",
                     (unsigned long long)lengths[i]);
    }
}

/* Blanks may end a header, and a page of them ends the file: a length that is believed leads the
 * parser off the mapping. */
Test(safetensors, refuses_a_header_longer_than_the_file)
{
    set_up("safetensors_blanks");
    size_t n_bytes = (size_t)sysconf(_SC_PAGESIZE);
    uint64_t length = n_bytes - 8 + 1;
    char *content = mem_alloc(n_bytes);
    SafeTensors *file;
    memset(content, ' ', n_bytes);
    memcpy(content, &length, 8);
    memcpy(content + 8, "{}", 2);
    cr_assert_eq(file_replace(&file_ops_system, path, content, n_bytes), OK);
    cr_expect_eq(safetensors_open(path, &file), E_FORMAT);
    cr_expect_not_null(strstr(status_message(), "bytes in a file of"), "%s", status_message());
    free(content);
}

Test(safetensors, says_what_cannot_be_opened)
{
    set_up("safetensors_missing");
    SafeTensors *file;
    cr_assert_eq(safetensors_open(path, &file), E_FILE);
    cr_assert_not_null(strstr(status_message(), "No such file"));
    cr_assert_eq(safetensors_open(folder, &file), E_FILE);
}

Test(safetensors, refuses_to_write_what_it_could_not_read)
{
    set_up("safetensors_bad_write");
    const NamedTensor twice[] = {sample[2], sample[2]};
    const NamedTensor not_utf8 = {"\xff", sample[2].tensor}, no_dtype = {"x", {.dtype = DT_NONE}};
    cr_expect_eq(safetensors_write(path, 2, twice, 0, NULL), E_FORMAT);
    cr_expect_eq(safetensors_write(path, 1, &not_utf8, 0, NULL), E_FORMAT);
    cr_expect_eq(safetensors_write(path, 1, &no_dtype, 0, NULL), E_UNSUPPORTED);
    cr_expect_not(file_exists(path));
}

/* ---- damage ---- */

/* Opens whatever is in `path`; a file that is accepted must at least be readable to its last
 * byte. */
static bool survives(void)
{
    SafeTensors *file;
    if (safetensors_open(path, &file) != OK) return false;
    volatile unsigned sum = 0;
    for (int i = 0; i < file->n_tensors; i++) {
        const Tensor *tensor = &file->tensors[i].tensor;
        for (size_t k = 0; k < tensor_bytes(tensor); k++)
            sum += ((const unsigned char *)tensor->data)[k];
    }
    safetensors_close(file);
    return true;
}

static char *read_sample(size_t *n_bytes)
{
    char *content;
    const MetaPair meta[] = {{"key", "value"}};
    cr_assert_eq(safetensors_write(path, N_SAMPLE, sample, 1, meta), OK);
    cr_assert_eq(file_read(path, 1 << 20, &content, n_bytes), OK);
    return content;
}

static void put_bytes(const char *content, size_t n_bytes)
{
    FILE *file = fopen(path, "wb"); /* not file_replace: thousands of fsyncs would take minutes */
    cr_assert(file && fwrite(content, 1, n_bytes, file) == n_bytes && fclose(file) == 0);
}

Test(safetensors, every_truncation_is_refused)
{
    set_up("safetensors_truncated");
    size_t n_bytes;
    char *content = read_sample(&n_bytes);
    for (size_t kept = 0; kept < n_bytes; kept++) {
        put_bytes(content, kept);
        cr_assert_not(survives(), "accepted a file cut to %zu of %zu bytes", kept, n_bytes);
    }
    free(content);
}

Test(safetensors, random_damage_is_refused_or_harmless)
{
    set_up("safetensors_mutated");
    size_t n_bytes;
    char *content = read_sample(&n_bytes), *damaged = mem_alloc(n_bytes);
    int n_refused = 0;
    enum { ROUNDS = 4000 };
    for (int round = 0; round < ROUNDS; round++) {
        RngKey key = {.seed = 1, .purpose = RNG_TEST, .sample = (uint64_t)round};
        memcpy(damaged, content, n_bytes);
        for (uint64_t k = 0; k <= rng_below(key, 0, 3); k++) {
            char *byte = damaged + rng_below(key, 3 * k + 1, n_bytes);
            if (rng_below(key, 3 * k + 2, 2))
                *byte ^= (char)(1 << rng_below(key, 3 * k + 3, 8));
            else
                *byte = "{}[]\":,0919-ea \\"[rng_below(key, 3 * k + 3, 16)];
        }
        put_bytes(damaged, n_bytes);
        n_refused += !survives();
    }
    cr_assert_gt(n_refused, ROUNDS / 2);
    cr_assert_lt(n_refused, ROUNDS);
    free(content);
    free(damaged);
}

/* ---- training states ---- */

static const StateHeader state_header = {
    .step = 1234,
    .data_position = 987654321012,
    .seed = UINT64_MAX,
    .n_threads = 7,
    .world_size = 3,
    .config = "model: \"m\"  # a text of lines,\noptim: {lr: 1e-4}\n",
};

Test(state, reads_what_it_wrote)
{
    set_up("state_round_trip");
    State *state;
    cr_assert_eq(state_write(&file_ops_system, path, &state_header, N_SAMPLE, sample), OK);
    cr_assert_eq(state_open(path, &state), OK, "%s", status_message());
    assert_sample(state->file);
    cr_assert_eq(state->header.step, state_header.step);
    cr_assert_eq(state->header.data_position, state_header.data_position);
    cr_assert_eq(state->header.seed, state_header.seed);
    cr_assert_eq(state->header.n_threads, state_header.n_threads);
    cr_assert_eq(state->header.world_size, state_header.world_size);
    cr_assert_str_eq(state->header.config, state_header.config);
    state_close(state);
}

/* Unlike a weights file, a state must notice every single flipped bit (padding and letter case
 * apart). */
Test(state, notices_any_flipped_bit)
{
    set_up("state_flipped");
    size_t n_bytes;
    char *content;
    cr_assert_eq(state_write(&file_ops_system, path, &state_header, N_SAMPLE, sample), OK);
    cr_assert_eq(file_read(path, 1 << 20, &content, &n_bytes), OK);
    for (size_t i = 0; i < n_bytes; i++) {
        State *state;
        content[i] ^= 1;
        put_bytes(content, n_bytes);
        cr_assert_eq(state_open(path, &state), E_FORMAT, "byte %zu of %zu flipped, not noticed", i,
                     n_bytes);
        content[i] ^= 1;
    }
    free(content);
}

Test(state, tells_weights_and_other_versions_apart)
{
    set_up("state_version");
    State *state;
    cr_assert_eq(safetensors_write(path, N_SAMPLE, sample, 0, NULL), OK);
    cr_assert_eq(state_open(path, &state), E_FORMAT);
    cr_assert_not_null(strstr(status_message(), "not a training state"));
    const MetaPair future[] = {{"format", "retort-state"}, {"version", "3"}};
    cr_assert_eq(safetensors_write(path, N_SAMPLE, sample, 2, future), OK);
    cr_assert_eq(state_open(path, &state), E_FORMAT);
    cr_assert_not_null(strstr(status_message(), "version '3'"));
}

/* ---- failing system calls ---- */

typedef struct Fault {
    int calls_left; /* fails when it reaches 0 */
    int error;
} Fault;

static bool strike(Fault *fault)
{
    if (--fault->calls_left != 0) return false;
    errno = fault->error;
    return true;
}

static ssize_t faulty_write(void *context, int fd, const void *data, size_t n_bytes)
{
    if (strike(context)) return -1;
    return write(fd, data, n_bytes > 100 ? 100 : n_bytes); /* short writes are legal */
}

static int faulty_fsync(void *context, int fd) { return strike(context) ? -1 : fsync(fd); }

static int faulty_rename(void *context, const char *from, const char *to)
{
    return strike(context) ? -1 : rename(from, to);
}

/* Every call in turn fails: the old file must stay whole until the rename, and no temporary may
 * remain. */
Test(state, survives_every_failing_system_call)
{
    set_up("state_faults");
    char temporary[320];
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    StateHeader old = state_header;
    old.step = 1;
    bool finished = false;
    int n_failed = 0;
    for (int n = 1; !finished; n++) {
        Fault fault = {n, ENOSPC};
        FileOps ops = {&fault, faulty_write, faulty_fsync, faulty_rename};
        State *state;
        cr_assert_eq(state_write(&file_ops_system, path, &old, N_SAMPLE, sample), OK);
        finished = state_write(&ops, path, &state_header, N_SAMPLE, sample) == OK;
        if (!finished)
            cr_expect_not_null(strstr(status_message(), "No space left"), "%s", status_message());
        n_failed += !finished;
        bool folder_sync = strstr(status_message(), "fsync of its folder") != NULL;
        cr_assert_eq(state_open(path, &state), OK, "call %d: %s", n, status_message());
        cr_expect_eq(state->header.step, finished || folder_sync ? 1234 : 1, "call %d", n);
        cr_expect_not(file_exists(temporary), "call %d left the temporary", n);
        state_close(state);
    }
    cr_assert_gt(n_failed, 8); /* writes in pieces, fsync, rename, fsync of the folder */
}

Test(state, a_write_that_is_interrupted_is_retried)
{
    set_up("state_eintr");
    Fault fault = {2, EINTR};
    FileOps ops = {&fault, faulty_write, faulty_fsync, faulty_rename};
    State *state;
    cr_assert_eq(state_write(&ops, path, &state_header, N_SAMPLE, sample), OK, "%s",
                 status_message());
    cr_assert_eq(state_open(path, &state), OK, "%s", status_message());
    state_close(state);
}

/* ---- digest ---- */

Test(digest, known_answer)
{
    set_up("digest");
    char hex[DIGEST_HEX_BYTES];
    cr_assert_eq(file_replace(&file_ops_system, path, "abc", 3), OK);
    cr_assert_eq(file_sha256(path, hex), OK);
    const char *fips180 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    cr_assert_str_eq(hex, fips180);
    cr_assert_eq(file_sha256(folder, hex), E_FILE);
}
