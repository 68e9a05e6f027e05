/* The reader and writer of PyTorch checkpoints: what is written is read back, what breaks a rule is
 * refused with a message that says so, and nothing from a file is run. What damage does is for
 * tests/test_weights_damage.c.
 *
 * That PyTorch itself reads these files, and that its files are read here, is checked by
 * tests/oracle/interop.py.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "checkpoints/torch_file.h"
#include "checkpoints/weights_file.h"
#include "tests/torch_sample.h"

/* ---- round trips ---- */

Test(torch_file, reads_what_it_wrote)
{
    set_up("torch_round_trip");
    TorchFile *file;
    cr_assert_eq(torch_file_write(path, N_SAMPLE, sample), OK, "%s", status_message());
    cr_assert_eq(torch_file_open(path, &file), OK, "%s", status_message());
    cr_assert(is_sample(file->tensors, file->n_tensors));
    cr_assert_null(file->note);
    for (int i = 0; i < N_SAMPLE; i++) {
        cr_assert_null(file->copies[i], "%s was copied, not used in place", sample[i].name);
        cr_assert_eq((uintptr_t)file->tensors[i].tensor.data % ZIP_ALIGN_BYTES, 0);
    }
    cr_assert_eq(torch_file_find(file, "layer.weight"), &file->tensors[3].tensor);
    cr_assert_null(torch_file_find(file, "layer.bias"));
    torch_file_close(file);
}

Test(torch_file, no_tensors_at_all)
{
    set_up("torch_empty");
    TorchFile *file;
    cr_assert_eq(torch_file_write(path, 0, NULL), OK);
    cr_assert_eq(torch_file_open(path, &file), OK, "%s", status_message());
    cr_assert_eq(file->n_tensors, 0);
    torch_file_close(file);
}

Test(torch_file, more_members_than_16_bits_count)
{
    enum { MANY = 70000 };
    set_up("torch_many");
    NamedTensor *many = mem_alloc(MANY * sizeof *many);
    char(*names)[16] = mem_alloc(MANY * sizeof *names);
    for (int i = 0; i < MANY; i++) {
        snprintf(names[i], sizeof names[i], "t%d", i);
        many[i] = (NamedTensor){names[i], {DT_U8, SHAPE(1), flag}};
    }
    TorchFile *file;
    cr_assert_eq(torch_file_write(path, MANY, many), OK);
    cr_assert_eq(torch_file_open(path, &file), OK, "%s", status_message());
    cr_assert_eq(file->n_tensors, MANY);
    cr_assert(same_tensor(&file->tensors[MANY - 1], &many[MANY - 1]));
    /* libarchive does without, but other readers need zip64's pointer before the end record */
    const char *end = (const char *)file->zip->mapping + file->file_bytes;
    cr_assert_eq(memcmp(end - 42, "PK\6\7", 4), 0);
    cr_assert_eq(memcmp(end - 22, "PK\5\6", 4), 0);
    torch_file_close(file);
    free(many);
    free(names);
}

/* Longer than the pieces in which the archive is read. */
Test(torch_file, large_members_are_used_in_place)
{
    enum { LARGE_BYTES = 150 << 20 };
    set_up("torch_large");
    FileOps ops = quick_ops();
    char *bytes = mem_alloc(LARGE_BYTES);
    for (int i = 0; i < LARGE_BYTES; i += 1 << 12) bytes[i] = (char)(i >> 12);
    const NamedTensor large[] = {{"large", {DT_U8, SHAPE(LARGE_BYTES), bytes}}, sample[3]};
    TorchFile *file;
    cr_assert_eq(torch_file_write_with(&ops, path, 2, large), OK, "%s", status_message());
    cr_assert_eq(torch_file_open(path, &file), OK, "%s", status_message());
    for (int i = 0; i < 2; i++) {
        cr_assert(same_tensor(&file->tensors[i], &large[i]));
        cr_assert_null(file->zip->members[2 + i].copy);
    }
    torch_file_close(file);
    free(bytes);
    cr_assert_eq(remove(path), 0);
}

Test(torch_file, refuses_to_write_what_it_could_not_read)
{
    set_up("torch_bad_write");
    const NamedTensor twice[] = {sample[2], sample[2]};
    const NamedTensor not_utf8 = {"\xc0\x80", sample[2].tensor},
                      no_dtype = {"x", {.dtype = DT_NONE}};
    cr_expect_eq(torch_file_write(path, 2, twice), E_FORMAT);
    cr_expect_eq(torch_file_write(path, 1, &not_utf8), E_FORMAT);
    cr_expect_eq(torch_file_write(path, 1, &no_dtype), E_UNSUPPORTED);
    cr_expect_not(file_exists(path));
}

/* Fails the n-th call of the three; *context counts down. */
static bool strike(int *calls_left)
{
    if (--*calls_left != 0) return false;
    errno = ENOSPC;
    return true;
}

static ssize_t faulty_write(void *context, int fd, const void *data, size_t n_bytes)
{
    return strike(context) ? -1 : write(fd, data, n_bytes);
}

static int faulty_fsync(void *context, int fd)
{
    (void)fd;
    return strike(context) ? -1 : 0;
}

static int faulty_rename(void *context, const char *from, const char *to)
{
    return strike(context) ? -1 : rename(from, to);
}

Test(torch_file, a_write_that_fails_leaves_the_old_file)
{
    set_up("torch_faults");
    cr_assert_eq(torch_file_write(path, N_SAMPLE, sample), OK);
    for (int n = 1;; n++) {
        int calls_left = n;
        const FileOps ops = {&calls_left, faulty_write, faulty_fsync, faulty_rename};
        Status status = torch_file_write_with(&ops, path, 1, sample);
        if (status == OK) break;
        cr_assert_eq(status, E_FILE);
        TorchFile *file;
        cr_assert_eq(torch_file_open(path, &file), OK, "after failure of call %d: %s", n,
                     status_message());
        cr_assert(file->n_tensors == 1 || is_sample(file->tensors, file->n_tensors));
        torch_file_close(file);
        cr_assert_lt(n, 1000);
    }
}

/* ---- state dicts by hand ---- */

static TorchFile *open_pickle(const char *pickle, size_t n_bytes)
{
    TorchFile *file = NULL;
    write_pickle(pickle, n_bytes);
    cr_assert_eq(torch_file_open(path, &file), OK, "%s", status_message());
    return file;
}

static void assert_floats(const TorchFile *file, int i, Shape shape, const float *wanted)
{
    const Tensor *tensor = &file->tensors[i].tensor;
    cr_assert_eq(tensor->dtype, DT_F32);
    cr_assert(shape_equal(tensor->shape, shape));
    cr_assert_eq(memcmp(tensor->data, wanted, tensor_bytes(tensor)), 0, "of tensor %d", i);
}

#define OPEN(pickle) open_pickle(pickle, sizeof(pickle) - 1)

Test(torch_file, strides_and_shared_storages)
{
    set_up("torch_strides");
    TorchFile *file = OPEN(
        "\x80\2}(" NAME("\1", "a") GOOD                                             /* all */
            NAME("\1", "b") TENSOR(FLOATS, "K\0", "K\3K\2\x86", "K\1K\3\x86")       /* .T */
        NAME("\1", "c") TENSOR(FLOATS, "K\2", "K\3\x85", "K\1\x85")                 /* [2:5] */
        NAME("\1", "d") TENSOR(FLOATS, "K\1", "K\2K\2\x86", "K\0K\2\x86")           /* expanded */
        NAME("\1", "e") TENSOR(FLOATS, "K\5", ")", ")")                             /* scalar */
        NAME("\1", "f") TENSOR(FLOATS, "K\4", "K\1K\2K\1\x87", "K\x63K\1K\x63\x87") /* dims of 1 */
        NAME("\1", "g") "ctorch._utils\n_rebuild_parameter\n" GOOD "\x88}\x87R"
                        "u.");
    const float *w = weight;
    assert_floats(file, 0, SHAPE(2, 3), w);
    assert_floats(file, 1, SHAPE(3, 2), (float[]){w[0], w[3], w[1], w[4], w[2], w[5]});
    assert_floats(file, 2, SHAPE(3), w + 2);
    assert_floats(file, 3, SHAPE(2, 2), (float[]){w[1], w[3], w[1], w[3]});
    assert_floats(file, 4, SHAPE_SCALAR, w + 5);
    assert_floats(file, 5, SHAPE(1, 2, 1), w + 4);
    assert_floats(file, 6, SHAPE(2, 3), w);
    for (int i = 0; i < 7; i++)
        cr_expect_eq(file->copies[i] != NULL, i == 1 || i == 3, "of tensor %d", i);
    torch_file_close(file);
}

Test(torch_file, state_dicts_in_other_dicts)
{
    set_up("torch_nested");
    TorchFile *file = OPEN("\x80\4\x95\0\0\0\0\0\0\0\0}(" NAME("\5", "epoch") "K\x09" NAME(
        "\5", "model") "}(" NAME("\1", "w") GOOD "u" NAME("\3", "opt") "](G?\xf0\0\0\0\0\0\0NJ"
                                                                       "\xff\xff\xff\xff"
                                                                       "e"
                                                                       "u.");
    assert_floats(file, 0, SHAPE(2, 3), weight);
    cr_assert_eq(file->n_tensors, 1);
    cr_assert_str_eq(file->note, "epoch, opt");
    torch_file_close(file);
    file = OPEN("\x80\2}(" NAME("\5", "model") "}" NAME("\12", "state_dict") "}(" NAME("\1", "w")
                    GOOD "uu.");
    assert_floats(file, 0, SHAPE(2, 3), weight);
    cr_assert_str_eq(file->note, "model");
    torch_file_close(file);
    file = OPEN("\x80\2}(" NAME("\5", "model") GOOD "u."); /* just a tensor of that name */
    cr_assert_str_eq(file->tensors[0].name, "model");
    torch_file_close(file);
}

Test(torch_file, memo_of_protocol_4)
{
    set_up("torch_memo");
    TorchFile *file = OPEN("\x80\4}\x94(\x8c\1w\x94" GOOD "\x94\x8c\1vh\2u.");
    cr_assert_eq(file->n_tensors, 2);
    assert_floats(file, 1, SHAPE(2, 3), weight);
    torch_file_close(file);
}

/* ---- refusals ---- */

#define P(text) text, sizeof(text) - 1

/* clang-format off */
static const struct {
    const char *pickle;
    size_t n_bytes;
    const char *message; /* part of what must be said */
} hostile[] = {
    /* what would run code */
    {P("\x80\2cos\nsystem\n" NAME("\2", "ls") "\x85R."), "pickle global os.system is not allowed"},
    {P("\x80\4\x8c\2os\x8c\6system\x93."), "pickle global os.system is not allowed"},
    {P("\x80\2c__builtin__\neval\n."), "global __builtin__.eval is not allowed"},
    {P("\x80\2ctorch._utils\n_rebuild_tensor\n."), "global torch._utils._rebuild_tensor is not"},
    {P("\x80\2ctorch.nn\nLinear\n)\x81."), "global torch.nn.Linear is not"},
    {P("\x80\2ctorch\nCharStorage\n."), "global torch.CharStorage is not"},
    {P("\x80\2ctorch\n\n."), "global torch. is not"},
    {P("\x80\2(ios\nsystem\n."), "instruction INST is not allowed"},
    {P("\x80\2(}o."), "instruction OBJ is not"},
    {P("\x80\2})\x81."), "instruction NEWOBJ is not"},
    {P("\x80\4})}\x92."), "instruction NEWOBJ_EX is not"},
    {P("\x80\2\x82\1."), "instruction EXT1 is not"},
    {P("\x80\2Pos.system\n."), "instruction PERSID is not"},
    /* what torch.save does not write */
    {P("\x80\2N0."), "instruction POP is not"},
    {P("\x80\2}2."), "instruction DUP is not"},
    {P("\x80\2I1\n."), "instruction INT is not"},
    {P("\x80\3C\1x."), "instruction SHORT_BINBYTES is not"},
    {P("\x80\4\x8f."), "instruction EMPTY_SET is not"},
    {P("\x80\2\xff."), "0xff is no instruction"},
    /* protocol, end, lengths */
    {P(""), "does not start with a protocol"},
    {P("\x80"), "does not start with a protocol"},
    {P("}."), "does not start with a protocol"},
    {P("\x80\1}."), "protocol 1, wanted 2 to 5"},
    {P("\x80\6}."), "protocol 6, wanted 2 to 5"},
    {P("\x80\2\x80\2}."), "once, at the start"},
    {P("\x80\2"), "wants 1 bytes more, 0 are left"},
    {P("\x80\2."), "takes 1 values, 0 are on the stack"},
    {P("\x80\2}}."), "ends with 2 values"},
    {P("\x80\2(}."), "1 open MARKs"},
    {P("\x80\2}.x"), "1 bytes follow its end"},
    {P("\x80\2X\xff\xff\xff\xff"
       "ab"),
     "wants 4294967295 bytes more, 2 are left"},
    {P("\x80\4\x8d\xff\xff\xff\xff\xff\xff\xff\xff"
       "ab"),
     "wants 18446744073709551615 bytes more"},
    {P("\x80\4\x95\xff\0\0\0\0\0\0\0}."), "a frame of 255 bytes, 2 are left"},
    {P("\x80\2\x8a\11\1\1\1\1\1\1\1\1\1."), "a number of 9 bytes"},
    {P("\x80\2cos"), "a name does not end"},
    {P("\x80\2X\1\0\0\0\xff."), "not UTF-8"},
    {P("\x80\2X\3\0\0\0\xed\xa0\x80."), "not UTF-8"},
    {P("\x80\2X\2\0\0\0\xc1\x81."), "not UTF-8"},
    {P("\x80\2X\1\0\0\0\0."), "zero byte"},
    /* stack and memo */
    {P("\x80\2t."), "no MARK is open"},
    {P("\x80\2}(\x85."), "takes 1 values, 0 are on the stack"},
    {P("\x80\2}(Nu."), "a key without a value"},
    {P("\x80\2N(u."), "got None, wanted a dict"},
    {P("\x80\2}Na."), "got a dict, wanted a list"},
    {P("\x80\2h\0."), "memo entry 0 was never put"},
    {P("\x80\2}q\1h\0."), "memo entry 0 was never put"},
    {P("\x80\2}r\xff\xff\xff\xff."), "memo entry 4294967295"},
    {P("\x80\2q\0."), "takes 1 values, 0 are on the stack"},
    {P("\x80\2K\1K\1\x93."), "named by a whole number and a whole number"},
    {P("\x80\2})R."), "a dict called with a tuple"},
    {P("\x80\2ctorch\nFloatStorage\n)R."), "torch.FloatStorage is called"},
    {P("\x80\2ccollections\nOrderedDict\n]\x85R."), "OrderedDict made from 1 values"},
    {P("\x80\2]}b."), "got a list, wanted a dict"},
    {P("\x80\2}Nb."), "attributes given as None"},
    /* storages */
    {P("\x80\2NQ."), "a persistent id must be"},
    {P(W("(" NAME("\6", "module") "NNNNtQ")), "a persistent id must be"},
    {P(W(STORAGE("torch\nFloatStorage", "0", MINUS_1))), "a persistent id must be"},
    {P(W(STORAGE("collections\nOrderedDict", "0", "K\6"))), "OrderedDict is used as the class"},
    {P(W(TENSOR(STORAGE("torch\nFloatStorage", "0", "K\5"), "K\0", ")", ")"))),
     "data/0 holds 24 bytes, wanted 5 elements of float32"},
    {P(W(TENSOR(STORAGE("torch\nDoubleStorage", "0", "K\6"), "K\0", ")", ")"))),
     "wanted 6 elements of float64"},
    {P(W(TENSOR(STORAGE("torch\nFloatStorage", "0", HUGE), "K\0", ")", ")"))), "holds 24 bytes"},
    {P(W(TENSOR(STORAGE("torch\nFloatStorage", "1", "K\6"), "K\0", ")", ")"))),
     "tensor w: its storage data/1 is not in the archive"},
    /* tensors */
    {P(W(REBUILD FLOATS "tR")), "a tensor made from 1 values"},
    {P(W(REBUILD FLOATS "K\0))\x89}}(NNutR")), "a tensor with metadata"},
    {P(W(TENSOR("N", "K\0", ")", ")"))), "wanted a storage"},
    {P(W(TENSOR(FLOATS, MINUS_1, ")", ")"))), "an offset >= 0"},
    {P(W(TENSOR(FLOATS, "K\0", "]", ")"))), "two tuples of equal length"},
    {P(W(TENSOR(FLOATS, "K\0", "K\2\x85", ")"))), "two tuples of equal length"},
    {P(W(TENSOR(FLOATS, "K\0", "K\2\x85", MINUS_1 "\x85"))), "numbers >= 0"},
    {P(W(TENSOR(FLOATS, "K\0", MINUS_1 "\x85", "K\1\x85"))), "numbers >= 0"},
    {P(W(TENSOR(FLOATS, "K\0", "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t", "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t"))),
     "a tensor of 9 dims"},
    {P(W(TENSOR(FLOATS, "K\7", "K\0\x85", "K\1\x85"))), "offset 7 reaches beyond"},
    {P(W(TENSOR(FLOATS, "K\6", ")", ")"))), "offset 6 reaches beyond"},
    {P(W(TENSOR(FLOATS, "K\0", "K\7\x85", "K\1\x85"))), "shape 7 with its strides"},
    {P(W(TENSOR(FLOATS, "K\1", "K\2K\3\x86", "K\3K\1\x86"))), "shape 2,3 with its strides"},
    {P(W(TENSOR(FLOATS, "K\0", "K\2K\3\x86", "K\4K\1\x86"))), "shape 2,3 with its strides"},
    {P(W(TENSOR(FLOATS, HUGE, "K\2\x85", HUGE "\x85"))), "reaches beyond"},
    {P(W(TENSOR(FLOATS, "K\0", "K\5\x85", HUGE "\x85"))), "reaches beyond"},
    {P(W(TENSOR(FLOATS, "K\0", HUGE "\x85", "K\0\x85"))), "too large"},
    {P(W(TENSOR(FLOATS, "K\0", HUGE HUGE "K\0\x87", "K\1K\1K\1\x87"))), "too large"},
    {P(W(TENSOR(FLOATS, "K\0", "J\0\0\0\4\x85", "K\0\x85"))), "more than a file of"},
    {P(W("ctorch._utils\n_rebuild_parameter\nN\x88}\x87R")), "a parameter must be made"},
    /* what is no state dict */
    {P("\x80\2]."), "holds a list, wanted a state dict"},
    {P("\x80\2" GOOD "."), "holds a tensor, wanted a state dict"},
    {P(W("K\1")), "entry w is a whole number, wanted a tensor"},
    {P(W("}")), "entry w is a dict, wanted a tensor"},
    {P("\x80\2}K\1Ns."), "a key of the state dict is a whole number"},
    {P("\x80\2}(" NAME("\1", "w") GOOD NAME("\1", "w") GOOD "u."), "tensor w is there twice"},
};
/* clang-format on */

Test(torch_file, refuses_broken_pickles)
{
    set_up("torch_hostile");
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        TorchFile *file = NULL;
        write_pickle(hostile[i].pickle, hostile[i].n_bytes);
        cr_expect_eq(torch_file_open(path, &file), E_FORMAT, "accepted row %zu, wanted: %s", i,
                     hostile[i].message);
        cr_expect_not_null(strstr(status_message(), hostile[i].message), "said %s\nwanted %s",
                           status_message(), hostile[i].message);
        cr_expect_not_null(strstr(status_message(), path), "the message does not name the file");
        cr_expect_null(file);
    }
}

/* ---- archives ---- */

static void expect_refused(const char *message)
{
    TorchFile *file = NULL;
    cr_expect_eq(torch_file_open(path, &file), E_FORMAT, "accepted, wanted: %s", message);
    cr_expect_not_null(strstr(status_message(), message), "said %s\nwanted %s", status_message(),
                       message);
}

static void write_members(int n, const char *const (*members)[2])
{
    FileOps ops = quick_ops();
    ZipWriter *zip;
    cr_assert_eq(zip_writer_open(&ops, path, &zip), OK);
    for (int i = 0; i < n; i++)
        zip_writer_put(zip, members[i][0], members[i][1], strlen(members[i][1]));
    cr_assert_eq(zip_writer_commit(zip), OK);
}

Test(torch_file, refuses_other_archives)
{
    set_up("torch_archives");
    write_members(0, NULL);
    expect_refused("is it a zip archive");
    write_members(1, (const char *const[][2]){{"a/x", "1"}});
    expect_refused("without data.pkl");
    write_members(2, (const char *const[][2]){{"a/x", "1"}, {"b/data.pkl", "\x80\2}."}});
    expect_refused("without data.pkl");
    write_members(2, (const char *const[][2]){{"a/data.pkl", "\x80\2}."}, {"a/byteorder", "big"}});
    expect_refused("byteorder");
    write_members(2, (const char *const[][2]){{"a/data.pkl", "\x80\2}."}, {"a/data.pkl", ""}});
    expect_refused("there twice");
    put_bytes("", 0);
    expect_refused("is empty");
    put_bytes("PK\3\4", 4);
    expect_refused("is it a zip archive");
    TorchFile *file;
    cr_assert_eq(torch_file_open(folder, &file), E_FILE);
}

/* ---- either format ---- */

Test(weights_file, content_decides)
{
    set_up("weights_either");
    WeightsFile *file;
    cr_assert_eq(safetensors_write(path, N_SAMPLE, sample, 0, NULL), OK); /* although named .pth */
    cr_assert_eq(weights_file_open(path, &file), OK, "%s", status_message());
    cr_assert_str_eq(file->format, "safetensors");
    cr_assert(is_sample(file->tensors, file->n_tensors));
    weights_file_close(file);
    cr_assert_eq(weights_file_write(path, N_SAMPLE, sample), OK);
    cr_assert_eq(weights_file_open(path, &file), OK, "%s", status_message());
    cr_assert_str_eq(file->format, "torch");
    cr_assert_eq(weights_file_find(file, "half"), &file->tensors[1].tensor);
    weights_file_close(file);
    put_bytes("\x80\2\x8a\12l\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15);
    cr_assert_eq(weights_file_open(path, &file), E_FORMAT);
    cr_assert_not_null(strstr(status_message(), "before PyTorch 1.6"));
    cr_assert_eq(weights_file_write("x.bin", N_SAMPLE, sample), E_CONFIG);
}
