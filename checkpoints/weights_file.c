/* Files of named tensors in either format. See weights_file.h. */
#include "checkpoints/weights_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "checkpoints/torch_file.h"

enum { MAGIC_BYTES = 16 };

/* How torch.save began a file before the zip format: a pickle of a magic number. */
static const unsigned char legacy_magic[] = {0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc};

static Status read_magic(const char *path, unsigned char magic[MAGIC_BYTES])
{
    FILE *file = fopen(path, "rb");
    if (!file) return status_fail(E_FILE, "%s: cannot be opened: %s", path, strerror(errno));
    memset(magic, 0, MAGIC_BYTES);
    fread(magic, 1, MAGIC_BYTES, file);
    Status status = OK;
    if (ferror(file)) status = status_fail(E_FILE, "%s: cannot be read: %s", path, strerror(errno));
    fclose(file);
    return status;
}

static Status open_torch(WeightsFile *file, const char *path)
{
    TRY(torch_file_open(path, &file->torch));
    const TorchFile *torch = file->torch;
    file->path = torch->path;
    file->format = "torch";
    file->tensors = torch->tensors;
    file->n_tensors = torch->n_tensors;
    file->note = torch->note;
    file->file_bytes = torch->file_bytes;
    return OK;
}

static Status open_safetensors(WeightsFile *file, const char *path)
{
    TRY(safetensors_open(path, &file->safetensors));
    const SafeTensors *safetensors = file->safetensors;
    file->path = safetensors->path;
    file->format = "safetensors";
    file->tensors = safetensors->tensors;
    file->n_tensors = safetensors->n_tensors;
    file->meta = safetensors->meta;
    file->n_meta = safetensors->n_meta;
    file->file_bytes = safetensors->mapping_bytes;
    return OK;
}

/* "PK" cannot begin a safetensors file: with the next bytes it would be a header length far beyond
 * what is allowed, unless they are zeros, which no zip archive has there. */
static Status open_either(WeightsFile *file, const char *path)
{
    unsigned char magic[MAGIC_BYTES];
    TRY(read_magic(path, magic));
    if (!memcmp(magic, "PK\3\4", 4) || !memcmp(magic, "PK\5\6", 4)) return open_torch(file, path);
    if (!memcmp(magic, legacy_magic, sizeof legacy_magic))
        return status_fail(E_FORMAT,
                           "%s: written by torch.save before PyTorch 1.6 (or without its zip "
                           "format); load and save it with a newer PyTorch",
                           path);
    return open_safetensors(file, path);
}

Status weights_file_open(const char *path, WeightsFile **out)
{
    WeightsFile *file = mem_alloc(sizeof *file);
    Status status = open_either(file, path);
    if (status != OK) {
        weights_file_close(file);
        return status;
    }
    *out = file;
    return OK;
}

void weights_file_close(WeightsFile *file)
{
    if (!file) return;
    torch_file_close(file->torch);
    safetensors_close(file->safetensors);
    free(file);
}

const Tensor *weights_file_find(const WeightsFile *file, const char *name)
{
    for (int i = 0; i < file->n_tensors; i++)
        if (!strcmp(file->tensors[i].name, name)) return &file->tensors[i].tensor;
    return NULL;
}

/* ---- writing ---- */

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n > m && !strcmp(text + n - m, end);
}

static bool is_torch_name(const char *path)
{
    return ends_with(path, ".pth") || ends_with(path, ".pt");
}

Status weights_file_can_write(const char *path)
{
    if (is_torch_name(path) || ends_with(path, ".safetensors")) return OK;
    return status_fail(E_CONFIG,
                       "%s: ends neither in .pth or .pt nor in .safetensors; the ending "
                       "says which format to write",
                       path);
}

Status weights_file_write(const char *path, int n_tensors, const NamedTensor *tensors)
{
    const MetaPair meta[] = {{"format", "pt"}};
    TRY(weights_file_can_write(path));
    if (is_torch_name(path)) return torch_file_write(path, n_tensors, tensors);
    return safetensors_write(path, n_tensors, tensors, 1, meta);
}
