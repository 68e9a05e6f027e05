/* Training states. See state.h. */
#include "checkpoints/state.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"

#define STATE_FORMAT "retort-state"

enum { MAX_VALUE_BYTES = 80, N_META = 9 };

/* The metadata of a state: the header's fields as text, in slots where they are numbers. */
typedef struct MetaText {
    MetaPair pairs[N_META];
    char values[N_META][MAX_VALUE_BYTES];
    int n;
} MetaText;

static char *meta_slot(MetaText *meta, const char *key)
{
    char *value = meta->values[meta->n];
    meta->pairs[meta->n++] = (MetaPair){key, value};
    return value;
}

static void meta_of_header(const StateHeader *header, MetaText *meta)
{
    meta->n = 0;
    snprintf(meta_slot(meta, "format"), MAX_VALUE_BYTES, "%s", STATE_FORMAT);
    snprintf(meta_slot(meta, "version"), MAX_VALUE_BYTES, "%d", STATE_VERSION);
    snprintf(meta_slot(meta, "step"), MAX_VALUE_BYTES, "%" PRId64, header->step);
    snprintf(meta_slot(meta, "data_position"), MAX_VALUE_BYTES, "%" PRId64, header->data_position);
    snprintf(meta_slot(meta, "seed"), MAX_VALUE_BYTES, "%" PRIu64, header->seed);
    snprintf(meta_slot(meta, "n_threads"), MAX_VALUE_BYTES, "%d", header->n_threads);
    snprintf(meta_slot(meta, "world_size"), MAX_VALUE_BYTES, "%d", header->world_size);
    meta->pairs[meta->n++] = (MetaPair){"config", header->config};
}

/* The digest of everything but itself, in the header's order, with the lengths implied by NULs
 * and shapes. */
static void content_digest(int n_tensors, const NamedTensor *tensors, int n_meta,
                           const MetaPair *meta, char hex[DIGEST_HEX_BYTES])
{
    char shape[SHAPE_MAX_RANK * 24];
    Digest *digest = digest_create();
    for (int i = 0; i < n_meta; i++) {
        if (!strcmp(meta[i].key, STATE_CHECKSUM_KEY)) continue;
        digest_add_string(digest, meta[i].key);
        digest_add_string(digest, meta[i].value);
    }
    for (int i = 0; i < n_tensors; i++) {
        const Tensor *tensor = &tensors[i].tensor;
        digest_add_string(digest, tensors[i].name);
        digest_add_string(digest, dtype_name(tensor->dtype));
        digest_add_string(digest, shape_format(tensor->shape, shape, sizeof shape));
        digest_add(digest, tensor->data, tensor_bytes(tensor));
    }
    digest_finish(digest, hex);
}

Status state_write(const FileOps *ops, const char *path, const StateHeader *header, int n_tensors,
                   const NamedTensor *tensors)
{
    MetaText meta;
    char checksum[DIGEST_HEX_BYTES];
    meta_of_header(header, &meta);
    content_digest(n_tensors, tensors, meta.n, meta.pairs, checksum);
    snprintf(meta_slot(&meta, STATE_CHECKSUM_KEY), MAX_VALUE_BYTES, "%s", checksum);
    return safetensors_write_with(ops, path, n_tensors, tensors, meta.n, meta.pairs);
}

/* ---- reading ---- */

static Status read_text(const SafeTensors *file, const char *key, const char **out)
{
    *out = safetensors_meta(file, key);
    if (!*out) return status_fail(E_FORMAT, "%s: its metadata has no '%s'", file->path, key);
    return OK;
}

static Status read_number(const SafeTensors *file, const char *key, int64_t max, int64_t *out)
{
    const char *text;
    TRY(read_text(file, key, &text));
    if (!text_to_int(text, out) || *out < 0 || *out > max)
        return status_fail(E_FORMAT,
                           "%s: metadata '%s': got '%.40s', wanted a number of 0 to %" PRId64,
                           file->path, key, text, max);
    return OK;
}

static Status read_seed(const SafeTensors *file, uint64_t *out)
{
    const char *text;
    char *end;
    TRY(read_text(file, "seed", &text));
    *out = strtoull(text, &end, 10);
    if (*text && !*end) return OK;
    return status_fail(E_FORMAT, "%s: metadata 'seed': '%.40s' is not a number", file->path, text);
}

static Status check_format(const SafeTensors *file)
{
    const char *format = safetensors_meta(file, "format"), *version;
    if (!format || strcmp(format, STATE_FORMAT))
        return status_fail(
            E_FORMAT, "%s: is not a training state (metadata 'format' is '%.40s', wanted '%s')",
            file->path, format ? format : "missing", STATE_FORMAT);
    TRY(read_text(file, "version", &version));
    int64_t number;
    if (!text_to_int(version, &number) || number != STATE_VERSION)
        return status_fail(E_FORMAT,
                           "%s: is a training state of version '%.40s', this program reads %d",
                           file->path, version, STATE_VERSION);
    return OK;
}

void state_checksum(const SafeTensors *file, char hex[DIGEST_HEX_BYTES])
{
    content_digest(file->n_tensors, file->tensors, file->n_meta, file->meta, hex);
}

static Status check_content(const SafeTensors *file)
{
    const char *wanted;
    char got[DIGEST_HEX_BYTES];
    TRY(read_text(file, STATE_CHECKSUM_KEY, &wanted));
    state_checksum(file, got);
    if (!strcmp(got, wanted)) return OK;
    return status_fail(E_FORMAT,
                       "%s: is damaged: its content has sha256 %.12s..., written was %.12s...; use "
                       "an older state",
                       file->path, got, wanted);
}

static Status read_header(const SafeTensors *file, StateHeader *header)
{
    int64_t n_threads = 0, world_size = 0;
    TRY(read_number(file, "step", INT64_MAX, &header->step));
    TRY(read_number(file, "data_position", INT64_MAX, &header->data_position));
    TRY(read_seed(file, &header->seed));
    TRY(read_number(file, "n_threads", INT32_MAX, &n_threads));
    TRY(read_number(file, "world_size", INT32_MAX, &world_size));
    TRY(read_text(file, "config", &header->config));
    header->n_threads = (int)n_threads;
    header->world_size = (int)world_size;
    return OK;
}

Status state_open(const char *path, State **out)
{
    State *state = mem_alloc(sizeof *state);
    Status status = safetensors_open(path, &state->file);
    if (status == OK) status = check_format(state->file);
    if (status == OK) status = check_content(state->file);
    if (status == OK) status = read_header(state->file, &state->header);
    if (status != OK) {
        state_close(state);
        return status;
    }
    *out = state;
    return OK;
}

void state_close(State *state)
{
    if (!state) return;
    safetensors_close(state->file);
    free(state);
}
