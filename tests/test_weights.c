/* Loading weights into a store is strict, for both formats of files, and says in one line what it
 * did; export writes what can be loaded.
 */
#include <criterion/criterion.h>

#include "autograd/store.h"
#include "checkpoints/torch_file.h"
#include "tests/torch_sample.h"
#include "train/commands.h"
#include "train/weights.h"

typedef struct Toy {
    Backend *backend;
    Store *store;
    char report[600];
} Toy;

static void toy_open(Toy *toy)
{
    cr_assert_eq(backend_open("ref", 1, &toy->backend), OK, "%s", status_message());
    toy->store = store_create(toy->backend);
    int index;
    store_declare(toy->store, "layer.weight", STORE_PARAMETER, LAYOUT_PLAIN, DT_F32, SHAPE(2, 3),
                  &index);
    store_declare(toy->store, "layer.count", STORE_BUFFER, LAYOUT_PLAIN, DT_I64, SHAPE_SCALAR,
                  &index);
    store_declare(toy->store, "step.layer.weight", STORE_STEP, LAYOUT_PLAIN, DT_I64, SHAPE_SCALAR,
                  &index);
    cr_assert_eq(store_allocate(toy->store), OK);
}

static void toy_close(Toy *toy)
{
    store_destroy(toy->store);
    backend_close(toy->backend);
}

static Status load(Toy *toy, int n_allow, const char *const *allow)
{
    return weights_load(toy->store, path, n_allow, allow, toy->report, sizeof toy->report);
}

static void assert_loaded(const Toy *toy)
{
    float got[6];
    Tensor host = {DT_F32, SHAPE(2, 3), got};
    cr_assert_eq(store_get(toy->store, 0, &host), OK);
    cr_assert_eq(memcmp(got, weight, sizeof got), 0);
}

static const NamedTensor full[] = {
    {"layer.weight", {DT_F32, SHAPE(2, 3), weight}},
    {"layer.count", {DT_I64, {.rank = 0}, &count}},
    {"step.layer.weight", {DT_I64, {.rank = 0}, &count}}, /* of a training state: left alone */
};

Test(weights, torch_files_load_strictly)
{
    Toy toy;
    char wanted[400];
    set_up("weights_strict");
    toy_open(&toy);
    cr_assert_eq(torch_file_write(path, 3, full), OK);
    cr_assert_eq(load(&toy, 0, NULL), OK, "%s", status_message());
    snprintf(wanted, sizeof wanted,
             "loaded %s: 2 tensors matched, 0 missing, 0 unexpected, sha256 ", path);
    cr_assert_eq(strncmp(toy.report, wanted, strlen(wanted)), 0, "said %s", toy.report);
    char sha256[DIGEST_HEX_BYTES];
    cr_assert_eq(file_sha256(path, sha256), OK);
    cr_assert_str_eq(toy.report + strlen(wanted), sha256);
    assert_loaded(&toy);
    toy_close(&toy);
}

/* Of numbers that are exact in each of these types. */
Test(weights, every_type_of_number_loads_into_f32)
{
    static const DType dtypes[] = {DT_F32, DT_F64, DT_F16, DT_BF16};
    static const char *const endings[] = {"pth", "safetensors"};
    static const float numbers[6] = {1.5f, -2.0f, 0.0f, 3.25f, 0.0078125f, 7.0f};
    char stored[6 * sizeof(double)];
    float got[6];
    Toy toy;
    set_up("weights_types");
    toy_open(&toy);
    for (int i = 0; i < 8; i++) {
        DType dtype = dtypes[i / 2];
        tensor_convert(stored, dtype, numbers, DT_F32, 6);
        NamedTensor tensors[] = {{"layer.weight", {dtype, SHAPE(2, 3), stored}}, full[1]};
        snprintf(path, sizeof path, "%s/file.%s", folder, endings[i % 2]);
        cr_assert_eq(weights_file_write(path, 2, tensors), OK);
        cr_assert_eq(load(&toy, 0, NULL), OK, "%s", status_message());
        cr_assert_eq(store_get(toy.store, 0, &(Tensor){DT_F32, SHAPE(2, 3), got}), OK);
        cr_expect_arr_eq(got, numbers, sizeof got, "%s in %s", dtype_name(dtype), endings[i % 2]);
    }
    toy_close(&toy);
}

/* A count is a count: nothing is rounded into it, nor out of it. And what is refused changes
 * nothing, not even the tensors in front of the wrong one. */
Test(weights, whole_numbers_stay_whole)
{
    static float five = 5;
    static int64_t counts[6] = {1, 2, 3, 4, 5, 6};
    const NamedTensor wrong[][2] = {
        {full[0], {"layer.count", {DT_F32, {.rank = 0}, &five}}},
        {{"layer.weight", {DT_I64, SHAPE(2, 3), counts}}, full[1]},
    };
    static const float zeros[6] = {0};
    float before[6];
    int64_t got = 0;
    Toy toy;
    set_up("weights_whole");
    toy_open(&toy);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(torch_file_write(path, 2, wrong[i]), OK);
        cr_expect_eq(load(&toy, 0, NULL), E_SHAPE);
        cr_expect_not_null(strstr(status_message(), i ? "got dtype int64" : "got dtype float32"),
                           "%s", status_message());
        cr_expect_not_null(strstr(status_message(), path), "%s", status_message());
        cr_assert_eq(store_get(toy.store, 0, &(Tensor){DT_F32, SHAPE(2, 3), before}), OK);
        cr_expect_arr_eq(before, zeros, sizeof zeros);
    }
    cr_assert_eq(torch_file_write(path, 2, full), OK);
    cr_assert_eq(load(&toy, 0, NULL), OK, "%s", status_message());
    cr_assert_eq(store_get(toy.store, 1, &(Tensor){DT_I64, SHAPE_SCALAR, &got}), OK);
    cr_expect_eq(got, count);
    toy_close(&toy);
}

Test(weights, what_does_not_match_is_refused_or_allowed_by_name)
{
    Toy toy;
    set_up("weights_mismatch");
    toy_open(&toy);
    cr_assert_eq(torch_file_write(path, 1, full), OK);
    cr_assert_eq(load(&toy, 0, NULL), E_SHAPE);
    cr_assert_not_null(strstr(status_message(), "layer.count is missing"));
    const char *const allow[] = {"layer.c*", "other"};
    cr_assert_eq(load(&toy, 2, allow), OK);
    cr_assert_not_null(strstr(toy.report, "1 tensors matched, 1 missing, 0 unexpected"));
    const NamedTensor more[] = {full[0], full[1], {"other", {DT_U8, SHAPE(1), flag}}};
    cr_assert_eq(torch_file_write(path, 3, more), OK);
    cr_assert_eq(load(&toy, 0, NULL), E_SHAPE);
    cr_assert_not_null(strstr(status_message(), "other is not part of the model"));
    const NamedTensor flat[] = {{"layer.weight", {DT_F32, SHAPE(6), weight}}, full[1]};
    cr_assert_eq(torch_file_write(path, 2, flat), OK);
    cr_assert_eq(load(&toy, 0, NULL), E_SHAPE);
    toy_close(&toy);
}

Test(weights, entries_beside_the_state_dict_are_named)
{
    static const char pickle[] = "\x80\2}(" NAME("\5", "epoch") "K\1" NAME("\5", "model") "}" NAME(
        "\14", "layer.weight") GOOD "su.";
    Toy toy;
    set_up("weights_note");
    toy_open(&toy);
    write_pickle(pickle, sizeof pickle - 1);
    cr_assert_eq(load(&toy, 1, (const char *const[]){"layer.count"}), OK, "%s", status_message());
    cr_assert_not_null(strstr(toy.report, "; not read: epoch"), "said %s", toy.report);
    assert_loaded(&toy);
    toy_close(&toy);
}

Test(weights, export_leaves_the_optimiser_out)
{
    set_up("weights_export");
    char from[320], out[340];
    snprintf(from, sizeof from, "%s/state.safetensors", folder);
    snprintf(out, sizeof out, "--out=%s", path);
    cr_assert_eq(safetensors_write(from, 3, full, 0, NULL), OK);
    cr_assert_eq(command_export(&(Args){2, (char *[]){from, out}}), OK, "%s", status_message());
    WeightsFile *file;
    cr_assert_eq(weights_file_open(path, &file), OK, "%s", status_message());
    cr_assert_str_eq(file->format, "torch");
    cr_assert_eq(file->n_tensors, 2);
    for (int i = 0; i < 2; i++) cr_assert(same_tensor(&file->tensors[i], &full[i]));
    weights_file_close(file);
    cr_assert_eq(command_export(&(Args){2, (char *[]){from, (char[]){"--out=x.bin"}}}), E_CONFIG);
    cr_assert_eq(command_export(&(Args){1, (char *[]){from}}), E_CONFIG);
}
