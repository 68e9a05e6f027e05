/* The 512-byte header in front of each file of a tar archive: the little that reading by offset
 * needs. What spreads over several headers (long names, pax records) is libarchive's business when
 * the index is built.
 *
 * source  POSIX.1-1988 ustar: name at 0, size at 124 in octal, checksum at 148, type at 156, magic
 *         "ustar" at 257, prefix of the name at 345
 */
#ifndef RETORT_DATA_TAR_HEADER_H
#define RETORT_DATA_TAR_HEADER_H

#include <stdbool.h>
#include <stdint.h>

enum { TAR_NAME_BYTES = 155 + 1 + 100 + 1 };

/* tar_header_parse: the name and size of the regular file that follows a header.
 * errors  false if the checksum is wrong or it is no regular file's */
bool tar_header_parse(const uint8_t header[512], char name[TAR_NAME_BYTES], int64_t *n_bytes);

#endif
