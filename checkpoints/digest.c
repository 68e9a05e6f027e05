/* SHA-256. See digest.h. */
#include "checkpoints/digest.h"

#include <openssl/evp.h>

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

struct Digest {
    EVP_MD_CTX *context;
};

Digest *digest_create(void)
{
    Digest *digest = mem_alloc(sizeof *digest);
    digest->context = EVP_MD_CTX_new();
    int started = digest->context && EVP_DigestInit_ex(digest->context, EVP_sha256(), NULL);
    assert(started); /* fails only without memory */
    (void)started;
    return digest;
}

void digest_add(Digest *digest, const void *data, size_t n_bytes)
{
    int added = EVP_DigestUpdate(digest->context, data, n_bytes);
    assert(added);
    (void)added;
}

void digest_add_string(Digest *digest, const char *text)
{
    digest_add(digest, text, strlen(text) + 1);
}

void digest_finish(Digest *digest, char hex[DIGEST_HEX_BYTES])
{
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned int n_bytes = 0;
    EVP_DigestFinal_ex(digest->context, bytes, &n_bytes);
    assert(2 * n_bytes + 1 == DIGEST_HEX_BYTES);
    for (unsigned int i = 0; i < n_bytes; i++) snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
    EVP_MD_CTX_free(digest->context);
    free(digest);
}

Status file_sha256(const char *path, char hex[DIGEST_HEX_BYTES])
{
    enum { CHUNK_BYTES = 1 << 20 };
    FILE *file = fopen(path, "rb");
    if (!file) return status_fail(E_FILE, "%s: cannot be opened: %s", path, strerror(errno));
    Digest *digest = digest_create();
    char *chunk = mem_alloc(CHUNK_BYTES);
    for (size_t n; (n = fread(chunk, 1, CHUNK_BYTES, file)) > 0;) digest_add(digest, chunk, n);
    Status status = OK;
    if (ferror(file)) status = status_fail(E_FILE, "%s: cannot be read: %s", path, strerror(errno));
    digest_finish(digest, hex);
    free(chunk);
    fclose(file);
    return status;
}
