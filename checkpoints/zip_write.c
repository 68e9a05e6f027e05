/* Writer of zip archives of stored members. See zip.h.
 *
 * Layout of a member, as PyTorch writes it: a local header, the name, an extra field "FB" whose
 * length brings the data to a multiple of ZIP_ALIGN_BYTES, the data. Sizes and checksums are known
 * before a header is written, so there are no data descriptors. What does not fit in 32 bits is
 * written as all ones there and in full in the zip64 extra field.
 */
#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/memory.h"
#include "checkpoints/zip.h"

enum {
    LOCAL_BYTES = 30,
    ZIP64_BYTES = 20,    /* the extra field with both sizes */
    PADDING_HEADER = 4,  /* id and length of the extra field that pads */
    VERSION_STORED = 20, /* "version needed": 2.0, and 4.5 for zip64 */
    VERSION_ZIP64 = 45,
    FLAG_UTF8 = 0x800,
    DATE_1980_01_01 = 0x21, /* equal content gives equal files: no clock in them */
};

typedef struct Written {
    char *name;
    uint64_t n_bytes, header_at;
    uint32_t crc;
} Written;

struct ZipWriter {
    FileWriter *file;
    Status broken; /* of the first put that failed */
    uint64_t position;
    Written *members;
    int n_members, capacity;
};

/* A record being put together, little-endian. The longest one, a central header with a zip64 field
 * of three numbers, has 46 + 28 bytes. */
typedef struct Record {
    unsigned char bytes[80];
    size_t n;
} Record;

static void put_number(Record *record, uint64_t value, size_t n_bytes)
{
    assert(record->n + n_bytes <= sizeof record->bytes);
    for (size_t i = 0; i < n_bytes; i++)
        record->bytes[record->n++] = (unsigned char)(value >> (8 * i));
}

static void put_u16(Record *record, uint64_t value) { put_number(record, value, 2); }
static void put_u32(Record *record, uint64_t value) { put_number(record, value, 4); }
static void put_u64(Record *record, uint64_t value) { put_number(record, value, 8); }

/* A field of 32 bits whose true value stands in the zip64 field when it does not fit. */
static uint64_t narrow(uint64_t value) { return value < UINT32_MAX ? value : UINT32_MAX; }

static Status append(ZipWriter *writer, const void *data, size_t n_bytes)
{
    Status status = file_writer_put(writer->file, data, n_bytes);
    if (status != OK)
        writer->broken = status;
    else
        writer->position += n_bytes;
    return status;
}

static Status append_record(ZipWriter *writer, const Record *record)
{
    return append(writer, record->bytes, record->n);
}

/* ---- members ---- */

static uint32_t checksum(const void *data, size_t n_bytes)
{
    return n_bytes ? (uint32_t)crc32_z(0, data, n_bytes) : 0;
}

/* Version, flags, method "stored", time, checksum and sizes: common to both kinds of header. */
static void put_facts(Record *record, const Written *member, bool zip64)
{
    put_u16(record, zip64 ? VERSION_ZIP64 : VERSION_STORED);
    put_u16(record, FLAG_UTF8);
    put_u16(record, 0);
    put_u16(record, 0);
    put_u16(record, DATE_1980_01_01);
    put_u32(record, member->crc);
    put_u32(record, narrow(member->n_bytes));
    put_u32(record, narrow(member->n_bytes));
    put_u16(record, strlen(member->name));
}

static Status put_local_header(ZipWriter *writer, const Written *member)
{
    bool zip64 = member->n_bytes >= UINT32_MAX;
    size_t name_bytes = strlen(member->name), zip64_bytes = zip64 ? ZIP64_BYTES : 0;
    uint64_t unpadded = writer->position + LOCAL_BYTES + name_bytes + zip64_bytes + PADDING_HEADER;
    size_t padding = (size_t)(-unpadded % ZIP_ALIGN_BYTES);
    static const char zeros[ZIP_ALIGN_BYTES];
    Record header = {0}, extra = {0};
    put_u32(&header, 0x04034b50);
    put_facts(&header, member, zip64);
    put_u16(&header, zip64_bytes + PADDING_HEADER + padding);
    if (zip64) {
        put_u16(&extra, 1);
        put_u16(&extra, 16);
        put_u64(&extra, member->n_bytes);
        put_u64(&extra, member->n_bytes);
    }
    put_u16(&extra, 'F' | 'B' << 8);
    put_u16(&extra, padding);
    TRY(append_record(writer, &header));
    TRY(append(writer, member->name, name_bytes));
    TRY(append_record(writer, &extra));
    return append(writer, zeros, padding);
}

Status zip_writer_put(ZipWriter *writer, const char *name, const void *data, size_t n_bytes)
{
    assert(strlen(name) < UINT16_MAX);
    writer->members = mem_grow(writer->members, &writer->capacity, writer->n_members + 1,
                               sizeof *writer->members);
    Written *member = &writer->members[writer->n_members++];
    *member = (Written){.name = mem_string(name),
                        .n_bytes = n_bytes,
                        .header_at = writer->position,
                        .crc = checksum(data, n_bytes)};
    TRY(put_local_header(writer, member));
    assert(writer->position % ZIP_ALIGN_BYTES == 0);
    return n_bytes ? append(writer, data, n_bytes) : OK;
}

/* ---- the directory ---- */

static Status put_central_header(ZipWriter *writer, const Written *member)
{
    bool large = member->n_bytes >= UINT32_MAX, far = member->header_at >= UINT32_MAX;
    size_t zip64_bytes = (large ? 16u : 0u) + (far ? 8u : 0u);
    Record header = {0}, extra = {0};
    put_u32(&header, 0x02014b50);
    put_u16(&header, VERSION_ZIP64); /* "made by" */
    put_facts(&header, member, large || far);
    put_u16(&header, zip64_bytes ? 4 + zip64_bytes : 0);
    put_u16(&header, 0); /* comment */
    put_u16(&header, 0); /* disk */
    put_u16(&header, 0); /* attributes, within and without */
    put_u32(&header, 0);
    put_u32(&header, narrow(member->header_at));
    if (zip64_bytes) {
        put_u16(&extra, 1);
        put_u16(&extra, zip64_bytes);
    }
    if (large) {
        put_u64(&extra, member->n_bytes);
        put_u64(&extra, member->n_bytes);
    }
    if (far) put_u64(&extra, member->header_at);
    TRY(append_record(writer, &header));
    TRY(append(writer, member->name, strlen(member->name)));
    return append_record(writer, &extra);
}

/* The end record of zip64 and the pointer to it. */
static Status put_zip64_end(ZipWriter *writer, uint64_t directory_at, uint64_t directory_bytes)
{
    uint64_t end_at = writer->position, n = (uint64_t)writer->n_members;
    Record end = {0}, locator = {0};
    put_u32(&end, 0x06064b50);
    put_u64(&end, 44); /* bytes that follow */
    put_u16(&end, VERSION_ZIP64);
    put_u16(&end, VERSION_ZIP64);
    put_u32(&end, 0); /* this disk, and that of the directory */
    put_u32(&end, 0);
    put_u64(&end, n);
    put_u64(&end, n);
    put_u64(&end, directory_bytes);
    put_u64(&end, directory_at);
    put_u32(&locator, 0x07064b50);
    put_u32(&locator, 0);
    put_u64(&locator, end_at);
    put_u32(&locator, 1);
    TRY(append_record(writer, &end));
    return append_record(writer, &locator);
}

static Status put_directory(ZipWriter *writer)
{
    uint64_t at = writer->position, n = (uint64_t)writer->n_members;
    for (int i = 0; i < writer->n_members; i++)
        TRY(put_central_header(writer, &writer->members[i]));
    uint64_t n_bytes = writer->position - at;
    if (n >= UINT16_MAX || at >= UINT32_MAX || n_bytes >= UINT32_MAX)
        TRY(put_zip64_end(writer, at, n_bytes));
    Record end = {0};
    put_u32(&end, 0x06054b50);
    put_u32(&end, 0); /* disks */
    put_u16(&end, n < UINT16_MAX ? n : UINT16_MAX);
    put_u16(&end, n < UINT16_MAX ? n : UINT16_MAX);
    put_u32(&end, narrow(n_bytes));
    put_u32(&end, narrow(at));
    put_u16(&end, 0); /* comment */
    return append_record(writer, &end);
}

/* ---- opening and closing ---- */

Status zip_writer_open(const FileOps *ops, const char *path, ZipWriter **out)
{
    FileWriter *file;
    TRY(file_writer_open(ops, path, &file));
    *out = mem_alloc(sizeof **out);
    (*out)->file = file;
    return OK;
}

static void free_writer(ZipWriter *writer)
{
    for (int i = 0; i < writer->n_members; i++) free(writer->members[i].name);
    free(writer->members);
    free(writer);
}

Status zip_writer_commit(ZipWriter *writer)
{
    assert(writer->broken == OK);
    Status status = put_directory(writer);
    if (status == OK)
        status = file_writer_commit(writer->file);
    else
        file_writer_discard(writer->file);
    free_writer(writer);
    return status;
}

void zip_writer_discard(ZipWriter *writer)
{
    if (!writer) return;
    file_writer_discard(writer->file);
    free_writer(writer);
}
