/* Training data made up for tests: a folder in SA-1B's form, with simple shapes whose masks are
 * known to the pixel. Used by the tests of whole runs; the program itself never makes data. */
#ifndef RETORT_TESTS_MAKE_SCENES_H
#define RETORT_TESTS_MAKE_SCENES_H

enum { SCENES_MAX_MASKS = 16 };

/* make_scenes: writes sa_1.jpg, sa_1.json .. sa_N into `folder`, which exists. Images differ in
 * size (at most 256 px a side), and the masks of one are apart; the i-th image (from 0) has n_masks
 * - i % 3 of them, at least one. The same files every time. n_masks  1..SCENES_MAX_MASKS */
void make_scenes(const char *folder, int n_images, int n_masks);

#endif
