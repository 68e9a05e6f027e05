/* Known answers of the prompt encoder with the mask decoder, in all cases of the table, on any
 * backend. Used by test_kat_forward.c on the CPU, and by tests/cudasim/tests/test_kat.c.
 *
 * source  ../shared/spec/kat/decoder_forward.tsv
 */
#ifndef RETORT_TESTS_KAT_DECODER_H
#define RETORT_TESTS_KAT_DECODER_H

int kat_decoder_case_count(void);

/* kat_expect_decoder: one case with the weights of `model`'s rows, in the model
 * configs/models/CONFIG. Skips the test, by name, if the table is missing. */
void kat_expect_decoder(const char *backend, const char *model, const char *config, int index);

/* kat_expect_empty_slots_unfelt: empty slots behind the tokens of a case must not be felt. */
void kat_expect_empty_slots_unfelt(const char *backend);

#endif
