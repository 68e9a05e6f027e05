/* Archives made to hurt whoever opens them: members that expand, say they are huge, lie on top of
 * each other or are archives themselves. Each is refused with a line that names the file, and takes
 * little memory. (test_weights_damage.c has bombs inside the pickle, and seeded damage.)
 */
#include <criterion/criterion.h>
#include <zlib.h>

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "checkpoints/weights_file.h"
#include "tests/torch_sample.h"

enum { ROOM = 4 << 20, STORED = 0, DEFLATED = 8 };

/* An archive that is put together by hand, where every number may be a lie. */
typedef struct Bomb {
    char *bytes, *directory; /* ROOM each */
    size_t n_bytes, n_directory, n_members;
} Bomb;

static void put(char *at, size_t *n, uint64_t value, int n_bytes)
{
    cr_assert_lt(*n + 8, ROOM);
    memcpy(at + *n, &value, (size_t)n_bytes);
    *n += (size_t)n_bytes;
}

static void bomb_open(Bomb *bomb)
{
    *bomb = (Bomb){.bytes = mem_alloc(ROOM), .directory = mem_alloc(ROOM)};
}

/* What local header and directory entry share: from the version needed to the extra field. */
static void put_numbers(char *at, size_t *n, int method, const char *name, uint32_t crc,
                        uint32_t packed_bytes, uint32_t full_bytes)
{
    put(at, n, 20, 2);
    put(at, n, 0, 2);
    put(at, n, (uint64_t)method, 2);
    put(at, n, 0, 4); /* time and date */
    put(at, n, crc, 4);
    put(at, n, packed_bytes, 4);
    put(at, n, full_bytes, 4);
    put(at, n, strlen(name), 2);
    put(at, n, 0, 2);
}

static void put_text(char *at, size_t *n, const char *text)
{
    memcpy(at + *n, text, strlen(text));
    *n += strlen(text);
}

/* A directory entry for the local header at `offset`. */
static void bomb_entry(Bomb *bomb, int method, const char *name, uint32_t crc,
                       uint32_t packed_bytes, uint32_t full_bytes, size_t offset)
{
    put(bomb->directory, &bomb->n_directory, 0x02014b50, 4);
    put(bomb->directory, &bomb->n_directory, 20, 2);
    put_numbers(bomb->directory, &bomb->n_directory, method, name, crc, packed_bytes, full_bytes);
    put(bomb->directory, &bomb->n_directory, 0, 6); /* comment, disk, kind of file */
    put(bomb->directory, &bomb->n_directory, 0, 4);
    put(bomb->directory, &bomb->n_directory, offset, 4);
    put_text(bomb->directory, &bomb->n_directory, name);
    bomb->n_members++;
}

/* A member's local header and its `packed_bytes`, of which full_bytes are said to come.
 * returns where it lies */
static size_t bomb_member(Bomb *bomb, int method, const char *name, uint32_t crc,
                          const void *packed, size_t packed_bytes, uint32_t full_bytes)
{
    size_t offset = bomb->n_bytes;
    put(bomb->bytes, &bomb->n_bytes, 0x04034b50, 4);
    put_numbers(bomb->bytes, &bomb->n_bytes, method, name, crc, (uint32_t)packed_bytes, full_bytes);
    put_text(bomb->bytes, &bomb->n_bytes, name);
    cr_assert_lt(bomb->n_bytes + packed_bytes, ROOM);
    memcpy(bomb->bytes + bomb->n_bytes, packed, packed_bytes);
    bomb->n_bytes += packed_bytes;
    return offset;
}

/* An honest member data.pkl: tensor w of the six floats of storage data/0. */
static void bomb_pickle(Bomb *bomb)
{
    static const char pickle[] = W(GOOD);
    enum { BYTES = sizeof pickle - 1 };
    uint32_t crc = (uint32_t)crc32(0, (const Bytef *)pickle, BYTES);
    size_t at = bomb_member(bomb, STORED, "archive/data.pkl", crc, pickle, BYTES, BYTES);
    bomb_entry(bomb, STORED, "archive/data.pkl", crc, BYTES, BYTES, at);
}

/* Appends the directory and its end. returns the size of the file */
static size_t bomb_finish(Bomb *bomb)
{
    size_t begin = bomb->n_bytes;
    cr_assert_lt(begin + bomb->n_directory + 32, ROOM);
    memcpy(bomb->bytes + begin, bomb->directory, bomb->n_directory);
    bomb->n_bytes += bomb->n_directory;
    put(bomb->bytes, &bomb->n_bytes, 0x06054b50, 4);
    put(bomb->bytes, &bomb->n_bytes, 0, 4);
    put(bomb->bytes, &bomb->n_bytes, bomb->n_members, 2);
    put(bomb->bytes, &bomb->n_bytes, bomb->n_members, 2);
    put(bomb->bytes, &bomb->n_bytes, bomb->n_directory, 4);
    put(bomb->bytes, &bomb->n_bytes, begin, 4);
    put(bomb->bytes, &bomb->n_bytes, 0, 2);
    return bomb->n_bytes;
}

/* Opens the archive as weights: refused, by a line with the file and `part`, and with little
 * memory. Closes the bomb. */
static void expect_refused(Bomb *bomb, const char *part)
{
    WeightsFile *file = NULL;
    size_t n_bytes = bomb_finish(bomb);
    put_bytes(bomb->bytes, n_bytes);
    free(bomb->bytes);
    free(bomb->directory);
    long before = peak_kib();
    cr_assert_eq(weights_file_open(path, &file), E_FORMAT, "accepted");
    cr_expect_not_null(strstr(status_message(), path), "%s", status_message());
    cr_expect_not_null(strstr(status_message(), part), "%s", status_message());
    expect_small(before, n_bytes);
}

/* n_bytes of `value`, deflated. *crc: of the n_bytes. returns the size; packed has ROOM */
static size_t deflate_run(char value, size_t n_bytes, char *packed, uint32_t *crc)
{
    char run[1 << 14];
    z_stream stream = {.next_out = (Bytef *)packed, .avail_out = ROOM};
    memset(run, value, sizeof run);
    cr_assert_eq(deflateInit2(&stream, 9, Z_DEFLATED, -15, 9, Z_DEFAULT_STRATEGY), Z_OK);
    *crc = (uint32_t)crc32(0, NULL, 0);
    for (size_t left = n_bytes; left > 0;) {
        size_t n = left < sizeof run ? left : sizeof run;
        *crc = (uint32_t)crc32(*crc, (Bytef *)run, (uInt)n);
        stream.next_in = (Bytef *)run;
        stream.avail_in = (uInt)n;
        left -= n;
        int got = deflate(&stream, left ? Z_NO_FLUSH : Z_FINISH);
        cr_assert_eq(got, left ? Z_OK : Z_STREAM_END);
    }
    deflateEnd(&stream);
    return stream.total_out;
}

/* ---- expansion ---- */

Test(bombs, a_pickle_that_expands_a_thousandfold)
{
    enum { FULL = 200 << 20 };
    uint32_t crc;
    Bomb bomb;
    char *packed = mem_alloc(ROOM);
    set_up("bomb_pickle");
    bomb_open(&bomb);
    size_t n = deflate_run('N', FULL, packed, &crc); /* NONE, NONE, .. */
    size_t at = bomb_member(&bomb, DEFLATED, "archive/data.pkl", crc, packed, n, FULL);
    bomb_entry(&bomb, DEFLATED, "archive/data.pkl", crc, (uint32_t)n, FULL, at);
    free(packed);
    expect_refused(&bomb, "expands to more than");
}

Test(bombs, many_members_that_expand_a_little)
{
    enum { FULL = 1 << 20, MEMBERS = 300 };
    uint32_t crc;
    Bomb bomb;
    char *packed = mem_alloc(ROOM), name[64];
    set_up("bomb_members");
    bomb_open(&bomb);
    size_t n = deflate_run(0, FULL, packed, &crc);
    for (int i = 0; i < MEMBERS; i++) {
        snprintf(name, sizeof name, "archive/data/%d", i);
        size_t at = bomb_member(&bomb, DEFLATED, name, crc, packed, n, FULL);
        bomb_entry(&bomb, DEFLATED, name, crc, (uint32_t)n, FULL, at);
    }
    free(packed);
    expect_refused(&bomb, "expands to more than");
}

/* ---- sizes that are lies ---- */

/* Says 4 GB, in both headers, and holds 1,000 bytes: nothing may be allocated because a number says
 * so. */
Test(bombs, a_huge_declared_size)
{
    enum { FULL = 1000 };
    static const int methods[] = {STORED, DEFLATED};
    static const uint32_t huge = 0xfffffffe;
    uint32_t crc;
    char *packed = mem_alloc(ROOM), *plain = mem_alloc(FULL);
    size_t n = deflate_run(0, FULL, packed, &crc);
    set_up("bomb_size");
    for (int i = 0; i < 2; i++) {
        Bomb bomb;
        bool deflated = methods[i] == DEFLATED;
        bomb_open(&bomb);
        size_t at = bomb_member(&bomb, methods[i], "archive/data.pkl", crc,
                                deflated ? packed : plain, deflated ? n : FULL, huge);
        memcpy(bomb.bytes + at + 18, deflated ? &(uint32_t){(uint32_t)n} : &huge, 4);
        bomb_entry(&bomb, methods[i], "archive/data.pkl", crc, deflated ? (uint32_t)n : huge, huge,
                   at);
        expect_refused(&bomb, "archive/data.pkl");
    }
    free(packed);
    free(plain);
}

/* Holds 64 MB and says 10 bytes. */
Test(bombs, a_size_that_is_too_small)
{
    enum { FULL = 64 << 20 };
    uint32_t crc;
    Bomb bomb;
    char *packed = mem_alloc(ROOM);
    set_up("bomb_understated");
    bomb_open(&bomb);
    size_t n = deflate_run('N', FULL, packed, &crc);
    size_t at = bomb_member(&bomb, DEFLATED, "archive/data.pkl", crc, packed, n, 10);
    bomb_entry(&bomb, DEFLATED, "archive/data.pkl", crc, (uint32_t)n, 10, at);
    free(packed);
    expect_refused(&bomb, "archive/data.pkl");
}

/* ---- members on top of each other ---- */

/* A thousand entries of the directory for one member of 1 MB, which is not as large as the pickle
 * says: 1 GB out of 100 kB. */
Test(bombs, many_entries_for_one_member)
{
    enum { FULL = 1 << 20, ENTRIES = 1000 };
    uint32_t crc;
    Bomb bomb;
    char *packed = mem_alloc(ROOM), name[64];
    set_up("bomb_overlap");
    bomb_open(&bomb);
    bomb_pickle(&bomb);
    size_t n = deflate_run(0, FULL, packed, &crc);
    size_t at = bomb_member(&bomb, DEFLATED, "archive/data/0", crc, packed, n, FULL);
    for (int i = 0; i < ENTRIES; i++) {
        snprintf(name, sizeof name, "archive/data/%d", i);
        bomb_entry(&bomb, DEFLATED, name, crc, (uint32_t)n, FULL, at);
    }
    free(packed);
    expect_refused(&bomb, "its storage data/0 holds");
}

/* Members that contain each other's headers, as in the bombs that need no nesting: each quotes all
 * that follow, stored, so that n members of n kernels expand to n squared. */
Test(bombs, members_inside_each_other)
{
    enum { MEMBERS = 2000, KERNEL = 1000 };
    Bomb bomb;
    char name[64];
    size_t offsets[MEMBERS];
    char *kernel = mem_alloc(KERNEL);
    set_up("bomb_nested_members");
    bomb_open(&bomb);
    bomb_pickle(&bomb);
    for (int i = 0; i < MEMBERS; i++) {
        snprintf(name, sizeof name, "archive/data/%d", i);
        offsets[i] = bomb_member(&bomb, STORED, name, 0, kernel, i == MEMBERS - 1 ? KERNEL : 0, 0);
    }
    for (int i = 0; i < MEMBERS; i++) {
        snprintf(name, sizeof name, "archive/data/%d", i);
        size_t data = offsets[i] + 30 + strlen(name);
        uint32_t n = (uint32_t)(bomb.n_bytes - data);
        uint32_t crc = (uint32_t)crc32(0, (Bytef *)bomb.bytes + data, n);
        bomb_entry(&bomb, STORED, name, crc, n, n, offsets[i]);
    }
    free(kernel);
    expect_refused(&bomb, "its storage data/0 holds");
}

/* ---- archives in archives ---- */

/* A storage that is itself an archive of 200 MB of zeros: bytes like any others, never opened, and
 * not as many as the pickle says. */
Test(bombs, an_archive_inside)
{
    enum { FULL = 200 << 20 };
    uint32_t crc;
    Bomb inner, outer;
    char *packed = mem_alloc(ROOM);
    set_up("bomb_inside");
    bomb_open(&inner);
    bomb_open(&outer);
    size_t n = deflate_run(0, FULL, packed, &crc);
    size_t at = bomb_member(&inner, DEFLATED, "archive/data.pkl", crc, packed, n, FULL);
    bomb_entry(&inner, DEFLATED, "archive/data.pkl", crc, (uint32_t)n, FULL, at);
    n = bomb_finish(&inner);
    bomb_pickle(&outer);
    crc = (uint32_t)crc32(0, (Bytef *)inner.bytes, (uInt)n);
    at = bomb_member(&outer, STORED, "archive/data/0", crc, inner.bytes, n, (uint32_t)n);
    bomb_entry(&outer, STORED, "archive/data/0", crc, (uint32_t)n, (uint32_t)n, at);
    free(inner.bytes);
    free(inner.directory);
    free(packed);
    expect_refused(&outer, "its storage data/0 holds");
}

/* The bricks of these tests are right: an honest archive made of them is read. */
Test(bombs, an_honest_archive_is_read)
{
    WeightsFile *file = NULL;
    Bomb bomb;
    set_up("bomb_none");
    bomb_open(&bomb);
    bomb_pickle(&bomb);
    uint32_t crc = (uint32_t)crc32(0, (Bytef *)weight, sizeof weight);
    size_t at = bomb_member(&bomb, STORED, "archive/data/0", crc, weight, sizeof weight,
                            sizeof weight);
    bomb_entry(&bomb, STORED, "archive/data/0", crc, sizeof weight, sizeof weight, at);
    put_bytes(bomb.bytes, bomb_finish(&bomb));
    cr_assert_eq(weights_file_open(path, &file), OK, "%s", status_message());
    cr_expect_eq(file->n_tensors, 1);
    cr_expect_arr_eq(file->tensors[0].tensor.data, weight, sizeof weight);
    weights_file_close(file);
    free(bomb.bytes);
    free(bomb.directory);
}
