/* Text to values: the one place where numbers of configs and command lines are parsed, and where a
 * name nobody knows is matched with the nearest known one.
 *
 * Called by base/yaml.c and train/options.c.
 */
#ifndef RETORT_BASE_TEXT_H
#define RETORT_BASE_TEXT_H

#include <stdbool.h>
#include <stdint.h>

/* text_to_int, text_to_double: the whole text is one decimal number, without blanks around it.
 * errors  false for anything else: empty, trailing characters, hexadecimal, out of the type's
 *         range, "inf", "nan"; *out is then unchanged */
bool text_to_int(const char *text, int64_t *out);
bool text_to_double(const char *text, double *out);

/* nearest_name: the candidate with the smallest edit distance to `name`, the first of equals;
 * NULL if n is 0. */
const char *nearest_name(const char *name, int n, const char *const *candidates);

#endif
