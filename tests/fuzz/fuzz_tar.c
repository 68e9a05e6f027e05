/* Tar shards: the index, and every member read by it. */
#include <assert.h>

#include "data/tar_index.h"
#include "tests/fuzz/fuzz.h"

static void read_member(const char *shard, uint32_t block, Buffer *buffer)
{
    char name[TAR_NAME_BYTES];
    const void *bytes;
    size_t n_bytes;
    if (block == TAR_NO_BLOCK) return;
    if (tar_read_member(shard, block, 1 << 20, buffer, name, &bytes, &n_bytes) == OK)
        assert((const char *)bytes + n_bytes <= (const char *)buffer->data + buffer->bytes);
}

void fuzz_tar(const uint8_t *bytes, size_t n_bytes)
{
    const char *shard = fuzz_file(bytes, n_bytes);
    Buffer buffer = {0};
    TarIndex index;
    if (tar_index_build(shard, &index) == OK) {
        for (int64_t i = 0; i < index.n_records; i++) {
            read_member(shard, index.records[i].image_block, &buffer);
            read_member(shard, index.records[i].mask_block, &buffer);
        }
        tar_index_free(&index);
    }
    for (uint32_t block = 0; block * TAR_BLOCK_BYTES < n_bytes; block++)
        read_member(shard, block, &buffer);
    buffer_free(&buffer);
}
