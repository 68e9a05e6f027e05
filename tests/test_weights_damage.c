/* What no file of weights can do, of either format: damage, compression, depth and size are refused
 * with a message, or the file is read exactly as it describes itself; memory stays bounded.
 */
#include <archive.h>
#include <archive_entry.h>
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "checkpoints/torch_file.h"
#include "checkpoints/weights_file.h"
#include "tests/reread.h"
#include "tests/torch_sample.h"

/* Damaged files per format and kind; `make fuzz-files` builds with more. */
#ifndef FUZZ_ROUNDS
#define FUZZ_ROUNDS 2000
#endif

/* ---- compression ---- */

/* The archive at `path` again, compressed, with n_zeros more bytes in a member of their own. */
static void compress_file(size_t n_zeros)
{
    ZipFile *zip;
    char *zeros = mem_alloc(1 << 20), packed[320];
    snprintf(packed, sizeof packed, "%s.zip", path);
    cr_assert_eq(zip_open(path, &zip), OK);
    struct archive *archive = archive_write_new();
    archive_write_set_format_zip(archive);
    archive_write_zip_set_compression_deflate(archive);
    archive_write_open_filename(archive, packed);
    for (int i = 0; i <= zip->n_members; i++) {
        struct archive_entry *entry = archive_entry_new();
        bool last = i == zip->n_members;
        archive_entry_set_pathname(entry, last ? "archive/zeros" : zip->members[i].name);
        archive_entry_set_filetype(entry, AE_IFREG);
        archive_entry_set_size(entry,
                               last ? (la_int64_t)n_zeros : (la_int64_t)zip->members[i].n_bytes);
        cr_assert_eq(archive_write_header(archive, entry), ARCHIVE_OK);
        if (!last) archive_write_data(archive, zip->members[i].data, zip->members[i].n_bytes);
        for (size_t n = 0; last && n < n_zeros; n += 1 << 20)
            archive_write_data(archive, zeros, 1 << 20);
        archive_entry_free(entry);
    }
    cr_assert_eq(archive_write_free(archive), ARCHIVE_OK);
    zip_close(zip);
    free(zeros);
    cr_assert_eq(rename(packed, path), 0);
}

Test(damage, compressed_archives_within_a_budget)
{
    set_up("torch_compressed");
    TorchFile *file;
    cr_assert_eq(torch_file_write(path, N_SAMPLE, sample), OK);
    compress_file(16 << 20);
    long before = peak_kib();
    cr_assert_eq(torch_file_open(path, &file), OK, "%s", status_message());
    cr_assert(is_sample(file->tensors, file->n_tensors));
    torch_file_close(file);
    expect_small(before, 0);
    compress_file(1 << 30);
    before = peak_kib();
    cr_assert_eq(torch_file_open(path, &file), E_FORMAT);
    cr_assert_not_null(strstr(status_message(), "expands to more than"), "%s", status_message());
    expect_small(before, 1 << 20);
}

/* ---- bombs ---- */

Test(damage, bombs_stay_small)
{
    enum { BOMB_BYTES = 8 << 20 };
    set_up("torch_bombs");
    char *bomb = mem_alloc(BOMB_BYTES);
    const char *const codes[] = {"]", "(", "N", "}q\1", "h\0", "]a", ")\x85"};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        size_t step = i == 3 ? 3 : i == 4 ? 2 : strlen(codes[i]), at = 5;
        memcpy(bomb, "\x80\2]q\0", at);
        for (; at + step < BOMB_BYTES; at += step) memcpy(bomb + at, codes[i], step);
        write_pickle(bomb, at);
        long before = peak_kib();
        TorchFile *file = NULL;
        cr_expect_eq(torch_file_open(path, &file), E_FORMAT, "accepted bomb %zu", i);
        if (strchr("]N", codes[i][0]) && step == 1) /* 40 bytes of memory for each of the pickle */
            cr_expect_not_null(strstr(status_message(), "needs more memory"), "%s",
                               status_message());
        expect_small(before, BOMB_BYTES);
    }
    free(bomb);
}

Test(damage, depth_does_not_matter)
{
    enum { DEPTH = 400000 };
    static const char head[] = "\x80\2}(" NAME("\5", "model") "}" NAME("\1", "x") ")";
    set_up("torch_deep");
    char *deep = mem_alloc(sizeof head + DEPTH + 2);
    memcpy(deep, head, sizeof head - 1);
    memset(deep + sizeof head - 1, 0x85, DEPTH); /* a tuple of a tuple of .. */
    memcpy(deep + sizeof head - 1 + DEPTH, "u.", 2);
    TorchFile *file;
    write_pickle(deep, sizeof head - 1 + DEPTH + 2);
    long before = peak_kib();
    cr_assert_eq(torch_file_open(path, &file), OK, "%s", status_message());
    cr_assert_str_eq(file->note, "x");
    torch_file_close(file);
    expect_small(before, DEPTH);
    free(deep);
}

/* ---- damage ---- */

enum { MAX_SAMPLE_BYTES = 1 << 16 };

/* Writes other digits over those that follow content[at]: sizes, shapes and offsets of a header, so
 * that tensors overlap or lie past the end. */
static void other_digits(char *content, size_t n_bytes, size_t at, RngKey key, uint64_t *draw)
{
    while (at < n_bytes && (content[at] < '0' || content[at] > '9')) at++;
    for (; at < n_bytes && content[at] >= '0' && content[at] <= '9'; at++)
        content[at] = (char)('0' + rng_below(key, (*draw)++, 10));
}

/* Damages up to three places of content (room for MAX_SAMPLE_BYTES): flips a bit, writes a byte,
 * other digits or a number that is often special, cuts the end off, or takes out, repeats or moves
 * a stretch. */
static size_t damage(char *content, size_t n_bytes, RngKey key)
{
    static const uint32_t special[] = {0,      1,          0x7f,       0xff,
                                       0xffff, 0x7fffffff, 0x80000000, 0xffffffff};
    uint64_t draw = 0;
    for (uint64_t k = rng_below(key, draw++, 3) + 1; k > 0 && n_bytes > 16; k--) {
        size_t at = rng_below(key, draw++, n_bytes - 8), length = 1 + rng_below(key, draw++, 8);
        switch (rng_below(key, draw++, 9)) {
        case 0: n_bytes = at + 8; break;
        case 1:
            memmove(content + at, content + at + length, n_bytes - at - length);
            n_bytes -= length;
            break;
        case 2:
            if (n_bytes + length > MAX_SAMPLE_BYTES) break;
            memmove(content + at + length, content + at, n_bytes - at);
            n_bytes += length;
            break;
        case 3:
            memcpy(content + at, &special[rng_below(key, draw++, 8)], length < 4 ? length : 4);
            break;
        case 4: memmove(content + at, content + rng_below(key, draw++, n_bytes - 8), length); break;
        case 5: content[at] = (char)rng_below(key, draw++, 256); break;
        case 6: other_digits(content, n_bytes, at, key, &draw); break;
        default: content[at] ^= (char)(1 << rng_below(key, draw++, 8));
        }
    }
    return n_bytes;
}

/* What became of a damaged file. */
typedef enum Outcome {
    REFUSED, /* with a line that names it */
    SAME,    /* read as it was */
    OTHER    /* read as its damaged description says, byte for byte: a name, a shape, a value */
} Outcome;
enum { N_OUTCOMES = 3 };

/* Whether an accepted file holds what its content says (tests/reread.h); a file whose checksums
 * are right cannot hold anything else, so for one that has them nobody needs to ask. */
typedef bool (*Judge)(const char *content, size_t n_bytes, const WeightsFile *file, char *why);

/* Opens what is in `path`, and judges it if it is accepted but not the sample. */
static Outcome open_damaged(const char *content, size_t n_bytes, Judge judge)
{
    WeightsFile *file;
    char why[REREAD_WHY_BYTES];
    if (weights_file_open(path, &file) != OK) {
        cr_assert_not_null(strstr(status_message(), path), "said %s", status_message());
        return REFUSED;
    }
    bool same = is_sample(file->tensors, file->n_tensors);
    cr_assert(same || judge, "accepted with right checksums, but another content");
    cr_assert(!judge || judge(content, n_bytes, file, why), "%s", why);
    weights_file_close(file);
    return same ? SAME : OTHER;
}

typedef struct Counts {
    int of[N_OUTCOMES];
} Counts;

/* FUZZ_ROUNDS damaged copies of content, put to the file by `put`. */
static Counts fuzz(uint64_t seed, const char *content, size_t n_bytes,
                   void (*put)(const void *content, size_t n_bytes), Judge judge)
{
    Counts counts = {0};
    char *damaged = mem_alloc(MAX_SAMPLE_BYTES);
    long before = peak_kib();
    for (int round = 0; round < FUZZ_ROUNDS; round++) {
        RngKey key = {.seed = seed, .purpose = RNG_TEST, .sample = (uint64_t)round};
        memcpy(damaged, content, n_bytes);
        size_t n_damaged = damage(damaged, n_bytes, key);
        put(damaged, n_damaged);
        counts.of[open_damaged(damaged, n_damaged, judge)]++;
    }
    free(damaged);
    printf("%d damaged files of %zu bytes: %d refused, %d read as they were, %d exactly as their "
           "damaged header says; %ld KiB of memory\n",
           FUZZ_ROUNDS, n_bytes, counts.of[REFUSED], counts.of[SAME], counts.of[OTHER],
           peak_kib() - before);
    expect_small(before, n_bytes);
    return counts;
}

static char *read_content(size_t *n_bytes)
{
    char *content;
    cr_assert_eq(file_read(path, MAX_SAMPLE_BYTES, &content, n_bytes), OK, "%s", status_message());
    return content;
}

Test(damage, torch_files_are_refused_or_read_as_they_were)
{
    set_up("torch_mutated");
    size_t n_bytes;
    cr_assert_eq(torch_file_write(path, N_SAMPLE, sample), OK);
    char *content = read_content(&n_bytes);
    Counts counts = fuzz(1, content, n_bytes, put_bytes, NULL);
    cr_assert_gt(counts.of[REFUSED], FUZZ_ROUNDS / 2);
    cr_assert_gt(counts.of[SAME], 0);
    free(content);
}

Test(damage, every_truncation_of_a_torch_file_is_refused)
{
    set_up("torch_truncated");
    size_t n_bytes;
    cr_assert_eq(torch_file_write(path, N_SAMPLE, sample), OK);
    char *content = read_content(&n_bytes);
    for (size_t kept = 0; kept < n_bytes; kept++) {
        put_bytes(content, kept);
        cr_assert_eq(open_damaged(content, kept, NULL), REFUSED,
                     "accepted a file cut to %zu of %zu bytes", kept, n_bytes);
    }
    free(content);
}

static void put_pickle(const void *content, size_t n_bytes) { write_pickle(content, n_bytes); }

static bool judge_pickle(const char *content, size_t n_bytes, const WeightsFile *file, char *why)
{
    (void)n_bytes;
    return reread_pickle(content, weight, sizeof weight, file, why);
}

/* With checksums that are right, so that the pickle itself is judged. */
Test(damage, pickles_are_refused_or_read_as_they_say)
{
    static const char good[] = "\x80\2}(" NAME("\5", "epoch") "K\x09" NAME(
        "\12", "state_dict") "ccollections\nOrderedDict\n)Rq\0(" NAME("\1", "w")
        GOOD NAME("\1", "b") TENSOR(FLOATS, "K\1", "K\2K\2\x86",
                                    "K\1K\3\x86") "u}" NAME("\11", "_metadata") "h\0sbu.";
    set_up("pickle_mutated");
    Counts counts = fuzz(2, good, sizeof good - 1, put_pickle, judge_pickle);
    cr_assert_gt(counts.of[REFUSED], FUZZ_ROUNDS / 2);
    cr_assert_gt(counts.of[OTHER], 0);
}

Test(damage, safetensors_are_refused_or_read_as_they_say)
{
    set_up("safetensors_damaged");
    size_t n_bytes;
    cr_assert_eq(safetensors_write(path, N_SAMPLE, sample, 0, NULL), OK);
    char *content = read_content(&n_bytes);
    Counts counts = fuzz(3, content, n_bytes, put_bytes, reread_safetensors);
    cr_assert_gt(counts.of[REFUSED], FUZZ_ROUNDS / 2);
    cr_assert_gt(counts.of[OTHER], 0);
    free(content);
}
