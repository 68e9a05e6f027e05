/* Where the samples of a tar shard begin, so that they are read in place by offset.
 *
 * A shard is a plain tar (ustar, GNU or pax; not compressed) of NAME.jpg and NAME.json files, in
 * any order. Its index is built in one pass over the headers and kept in a file of its own, with a
 * checksum and the shard's size and time of change: an index that is damaged or of another shard is
 * never used. Called by data/root_tar.c.
 *
 * How long a file is stands in the tar header in front of it, which is read with it and checked, so
 * a record is 16 bytes and a shard that changed under a running job is noticed.
 */
#ifndef RETORT_DATA_TAR_INDEX_H
#define RETORT_DATA_TAR_INDEX_H

#include <stdint.h>

#include "base/file.h"
#include "data/buffer.h"
#include "data/root.h"
#include "data/tar_header.h"

enum { TAR_BLOCK_BYTES = 512 };
#define TAR_NO_BLOCK UINT32_MAX /* of the masks of an image that has none */

typedef struct TarRecord {
    uint64_t id;                      /* root_sample_id of the image's name in the archive */
    uint32_t image_block, mask_block; /* of the tar headers, in blocks from the shard's begin */
} TarRecord;

typedef struct TarIndex {     /* zero: empty */
    const TarRecord *records; /* in the order of the images in the archive */
    int64_t n_records;
    uint64_t min_id, max_id;
    int64_t n_without_masks;
    int64_t n_lone_masks;            /* json files without an image; 0 if read from a file */
    char lone_masks[TAR_NAME_BYTES]; /* the first of them, by name */
    void *memory;        /* of the records */
    size_t mapped_bytes; /* of memory that is a mapped file; 0: it is malloc's */
} TarIndex;

typedef struct TarShard { /* what an index is of */
    int64_t n_bytes, changed_ns;
} TarShard;

/* tar_index_build: one pass over the shard's headers.
 * errors  E_FILE; E_FORMAT naming shard and member if it is no tar, cut off, a member cannot be
 * read by offset (sparse, or longer than its header says), or two images have one id */
Status tar_index_build(const char *shard, TarIndex *out);

/* tar_skip_dot: a member's name without "./" in front. */
const char *tar_skip_dot(const char *name);

/* tar_shard_stat: size and time of change. errors  E_FILE */
Status tar_shard_stat(const char *shard, TarShard *out);

/* tar_index_path: where a folder keeps the index of a shard; a hash of the shard's path tells
 * shards of one name apart. errors  E_FILE if it is too long */
Status tar_index_path(const char *folder, const char *shard, char path[ROOT_NAME_BYTES]);

/* tar_index_write: the index of a shard, replacing the file `path`. errors  E_FILE */
Status tar_index_write(const FileOps *ops, const char *path, const TarShard *shard,
                       const TarIndex *index);

/* tar_index_open: maps an index file.
 * errors  E_FILE; E_FORMAT if it is damaged or not of this shard */
Status tar_index_open(const char *path, const TarShard *shard, TarIndex *out);
void tar_index_free(TarIndex *index);

/* tar_read_member: the content of the file whose header is at `block`.
 * name    receives the member's name
 * bytes   the content, in `buffer`
 * errors  E_FILE; E_FORMAT if there is no header of a file of 1 .. max_bytes bytes; E_MEMORY */
Status tar_read_member(const char *shard, uint32_t block, int64_t max_bytes, Buffer *buffer,
                       char name[TAR_NAME_BYTES], const void **bytes, size_t *n_bytes);

#endif
