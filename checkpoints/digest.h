/* SHA-256, from libcrypto. Used for the load line of weights and the checksum of training
 * states. */
#ifndef RETORT_CHECKPOINTS_DIGEST_H
#define RETORT_CHECKPOINTS_DIGEST_H

#include <stddef.h>

#include "base/status.h"

enum { DIGEST_HEX_BYTES = 65 }; /* 64 characters and a NUL */

typedef struct Digest Digest;

Digest *digest_create(void);
void digest_add(Digest *digest, const void *data, size_t n_bytes);

/* digest_add_string: with its NUL, so that ("ab","c") differs from ("a","bc"). */
void digest_add_string(Digest *digest, const char *text);

/* digest_finish: writes the hex digest and frees the digest. */
void digest_finish(Digest *digest, char hex[DIGEST_HEX_BYTES]);

/* file_sha256: hex digest of a whole file. errors  E_FILE */
Status file_sha256(const char *path, char hex[DIGEST_HEX_BYTES]);

#endif
