/* Fuzz targets: readers that are given any bytes. None may crash, read or write outside its memory,
 * overflow, or loop; what they return is their own business.
 *
 * One file per target, fuzz_NAME.c. `make fuzz` builds each with libFuzzer, AddressSanitizer and
 * UBSan; inputs that were found, and one good one to start from, lie in tests/fuzz/inputs/NAME, and
 * tests/test_fuzz.c runs all of them in `make test`.
 */
#ifndef RETORT_TESTS_FUZZ_FUZZ_H
#define RETORT_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

typedef void (*FuzzTarget)(const uint8_t *bytes, size_t n_bytes);

void fuzz_annotations(const uint8_t *bytes, size_t n_bytes);
void fuzz_coco(const uint8_t *bytes, size_t n_bytes);
void fuzz_embeddings(const uint8_t *bytes, size_t n_bytes);
void fuzz_jpeg(const uint8_t *bytes, size_t n_bytes);
void fuzz_rle(const uint8_t *bytes, size_t n_bytes);
void fuzz_safetensors(const uint8_t *bytes, size_t n_bytes);
void fuzz_state(const uint8_t *bytes, size_t n_bytes);
void fuzz_tar(const uint8_t *bytes, size_t n_bytes);
void fuzz_torch(const uint8_t *bytes, size_t n_bytes);
void fuzz_yaml(const uint8_t *bytes, size_t n_bytes);

/* fuzz_file: the path of a file in memory with these bytes, for readers that take a path; until the
 * next call. */
const char *fuzz_file(const uint8_t *bytes, size_t n_bytes);

#endif
