/* Known answers of the reference kernels: tiny cases computed by hand, or by formulas written anew
 * here. The other backends are judged against the reference, so this is where the definition itself
 * is checked.
 */
#include "tests/ref_call.h"

/* ---- bind ---- */

Test(ref, bind_refuses_mixed_and_low_dtypes)
{
    Backend *backend;
    float a[2] = {0};
    double b[2] = {0};
    OpAttr attr = {0};
    cr_assert_eq(ref_open(0, &backend), OK);
    KernelCall call = {.op = OP_ADD,
                       .label = "neck.sum",
                       .attr = &attr,
                       .n_src = 2,
                       .n_dst = 1,
                       .src = {F32(a, 2), F64(b, 2)},
                       .dst = {F32(a, 2)}};
    cr_assert_eq(backend->bind(backend, &call), E_UNSUPPORTED);
    cr_assert(strstr(status_message(), "neck.sum") && strstr(status_message(), "add") &&
                  strstr(status_message(), "float64"),
              "%s", status_message());
    call.src[0].dtype = DT_BF16;
    cr_assert_eq(backend->bind(backend, &call), E_UNSUPPORTED);
    cr_assert(strstr(status_message(), "bfloat16"), "%s", status_message());
    backend->close(backend);
}

/* ---- elementwise and shape ---- */

Test(ref, add_broadcasts_both_sides)
{
    double a[] = {1, 2}, b[] = {10, 20, 30}, dst[6];
    RUN(OP_ADD, (OpAttr){0}, ((Tensor[]){F64(a, 2, 1), F64(b, 3)}), ((Tensor[]){F64(dst, 2, 3)}));
    expect_near(dst, (double[]){11, 21, 31, 12, 22, 32}, 6, 0);
}

/* Values of torch.nn.functional at 1, and the flat parts. */
Test(ref, activations)
{
    double src[] = {1, -4, 4, 0}, dst[4];
    Tensor in[] = {F64(src, 4)}, out[] = {F64(dst, 4)};
    RUN(OP_ACT, ((OpAttr){.act = {ACT_GELU_TANH}}), in, out);
    expect_near(dst, (double[]){0.84119199, -7.02459e-05, 3.99992975, 0}, 4, 1e-8);
    RUN(OP_ACT, ((OpAttr){.act = {ACT_GELU_ERF}}), in, out);
    expect_near(dst, (double[]){0.84134475, -1.26685e-04, 3.99987332, 0}, 4, 1e-8);
    RUN(OP_ACT, ((OpAttr){.act = {ACT_HARDSWISH}}), in, out);
    expect_near(dst, (double[]){4.0 / 6, 0, 4, 0}, 4, 1e-15);
    RUN(OP_ACT, ((OpAttr){.act = {ACT_RELU}}), in, out);
    expect_near(dst, (double[]){1, 0, 4, 0}, 4, 0);
    src[0] = NAN;
    RUN(OP_ACT, ((OpAttr){.act = {ACT_RELU}}), in, out);
    cr_assert(isnan(dst[0]));
}

Test(ref, concat_slice_pad_on_the_middle_axis)
{
    double a[] = {1, 2, 3, 4}, b[] = {5, 6}, joined[6], part[4], padded[8];
    RUN(OP_CONCAT, ((OpAttr){.concat = {1}}), ((Tensor[]){F64(a, 1, 2, 2), F64(b, 1, 1, 2)}),
        ((Tensor[]){F64(joined, 1, 3, 2)}));
    expect_near(joined, (double[]){1, 2, 3, 4, 5, 6}, 6, 0);
    RUN(OP_SLICE, ((OpAttr){.slice = {1, 1, 2}}), ((Tensor[]){F64(joined, 1, 3, 2)}),
        ((Tensor[]){F64(part, 1, 2, 2)}));
    expect_near(part, (double[]){3, 4, 5, 6}, 4, 0);
    RUN(OP_PAD, ((OpAttr){.pad = {2, 1, 1}}), ((Tensor[]){F64(a, 1, 2, 2)}),
        ((Tensor[]){F64(padded, 1, 2, 4)}));
    expect_near(padded, (double[]){0, 1, 2, 0, 0, 3, 4, 0}, 8, 0);
}

Test(ref, reduce_sum_drops_leading_and_keeps_ones)
{
    double src[] = {1, 2, 3, 4, 5, 6, 7, 8}, dst[2];
    RUN(OP_REDUCE_SUM, ((OpAttr){.reduce_sum = {SHAPE(2, 1)}}), ((Tensor[]){F64(src, 2, 2, 2)}),
        ((Tensor[]){F64(dst, 2, 1)}));
    expect_near(dst, (double[]){1 + 2 + 5 + 6, 3 + 4 + 7 + 8}, 2, 0);
}

/* ---- products ---- */

Test(ref, matmul_transposes_and_adds_bias)
{
    double a[] = {1, 2, 3, 4, 5, 6}, b[] = {1, 0, 2, -1, 1, 0}, bias[] = {10, 20}, dst[4];
    RUN(OP_MATMUL, ((OpAttr){.matmul = {.trans_b = true}}),
        ((Tensor[]){F64(a, 2, 3), F64(b, 2, 3), F64(bias, 2)}), ((Tensor[]){F64(dst, 2, 2)}));
    expect_near(dst, (double[]){1 + 6 + 10, -1 + 2 + 20, 4 + 12 + 10, -4 + 5 + 20}, 4, 0);
    RUN(OP_MATMUL, ((OpAttr){.matmul = {.trans_a = true}}),
        ((Tensor[]){F64(a, 3, 2), F64(b, 3, 2), NONE}), ((Tensor[]){F64(dst, 2, 2)}));
    expect_near(dst, (double[]){1 * 1 + 3 * 2 + 5 * 1, 3 * -1, 2 * 1 + 4 * 2 + 6 * 1, 4 * -1}, 4,
                0);
}

/* A 3x3 kernel of ones counts the 4 neighbours inside the image; the second group reads threes with
 * weight 2. */
Test(ref, conv2d_pads_strides_and_groups)
{
    double src[3 * 3 * 2], weight[2 * 3 * 3 * 1], bias[] = {0, 0.5}, dst[2 * 2 * 2];
    for (int i = 0; i < 18; i++) src[i] = i % 2 ? 3 : 1;
    for (int i = 0; i < 18; i++) weight[i] = i < 9 ? 1 : 2;
    RUN(OP_CONV2D, ((OpAttr){.conv2d = {.stride = 2, .pad = 1, .groups = 2}}),
        ((Tensor[]){F64(src, 1, 3, 3, 2), F64(weight, 2, 3, 3, 1), F64(bias, 2)}),
        ((Tensor[]){F64(dst, 1, 2, 2, 2)}));
    expect_near(dst, (double[]){4, 24.5, 4, 24.5, 4, 24.5, 4, 24.5}, 8, 0);
}

Test(ref, depth_to_space_order)
{
    double src[8], dst[8], back[8];
    for (int i = 0; i < 8; i++)
        src[i] = i; /* (1,1,1,2*2*2): block row a, block column b, channel */
    RUN(OP_DEPTH_TO_SPACE, ((OpAttr){.depth_to_space = {2}}), ((Tensor[]){F64(src, 1, 1, 1, 8)}),
        ((Tensor[]){F64(dst, 1, 2, 2, 2)}));
    expect_near(dst, (double[]){0, 1, 2, 3, 4, 5, 6, 7}, 8, 0);
    RUN(OP_DEPTH_TO_SPACE, ((OpAttr){.depth_to_space = {2}}), ((Tensor[]){F64(src, 1, 1, 2, 4)}),
        ((Tensor[]){F64(dst, 1, 2, 4, 1)}));
    expect_near(dst, (double[]){0, 1, 4, 5, 2, 3, 6, 7}, 8, 0);
    RUN(OP_SPACE_TO_DEPTH, ((OpAttr){.space_to_depth = {2}}), ((Tensor[]){F64(dst, 1, 2, 4, 1)}),
        ((Tensor[]){F64(back, 1, 1, 2, 4)}));
    expect_near(back, src, 8, 0);
}

/* ---- norms ---- */

Test(ref, batchnorm_uses_biased_variance)
{
    double src[] = {1, 3}, weight[] = {2}, bias[] = {-1}, dst[2], mean[1], var[1];
    RUN(OP_BATCHNORM, ((OpAttr){.batchnorm = {3, ACT_RELU}}),
        ((Tensor[]){F64(src, 1, 1, 2, 1), F64(weight, 1), F64(bias, 1)}),
        ((Tensor[]){F64(dst, 1, 1, 2, 1), F64(mean, 1), F64(var, 1)}));
    expect_near(mean, (double[]){2}, 1, 0);
    expect_near(var, (double[]){1}, 1, 0);
    expect_near(dst, (double[]){0, 0}, 2, 0); /* 1/sqrt(1+3) * 2 - 1 = 0 and -2, behind ReLU */
}

Test(ref, bn_update_runs_in_order_with_unbiased_variance)
{
    double means[] = {1, 2}, vars[] = {3, 6}, ok[] = {1}, mean[] = {0}, var[] = {1};
    int64_t tracked = 5;
    Tensor src[] = {F64(means, 2, 1), F64(vars, 2, 1), F64(ok, 1)};
    Tensor dst[] = {F64(mean, 1), F64(var, 1), {DT_I64, SHAPE_SCALAR, &tracked}};
    OpAttr attr = {.bn_update = {.momentum = 0.5, .n_values = 3}};
    RUN(OP_BN_UPDATE, attr, src, dst);
    expect_near(mean, (double[]){1.25}, 1, 1e-15); /* 0 -> 0.5 -> 1.25 */
    expect_near(var, (double[]){5.875}, 1, 1e-15); /* 1 -> 0.5 + 2.25 -> 1.375 + 4.5 */
    cr_assert_eq(tracked, 7);
    ok[0] = 0;
    RUN(OP_BN_UPDATE, attr, src, dst);
    expect_near(mean, (double[]){1.25}, 1, 1e-15);
    cr_assert_eq(tracked, 7);
}

Test(ref, layernorm_of_a_row)
{
    double src[] = {1, 2, 3, 6}, weight[] = {1, 1, 1, 2}, bias[] = {0, 0, 1, 0}, dst[4], mean[1],
           rstd[1];
    RUN(OP_LAYERNORM, ((OpAttr){.layernorm = {0.5, ACT_NONE}}),
        ((Tensor[]){F64(src, 1, 4), F64(weight, 4), F64(bias, 4)}),
        ((Tensor[]){F64(dst, 1, 4), F64(mean, 1), F64(rstd, 1)}));
    expect_near(mean, (double[]){3}, 1, 0);
    expect_near(rstd, (double[]){0.5}, 1, 1e-15); /* variance 14/4 + 0.5 = 4 */
    expect_near(dst, (double[]){-1, -0.5, 1, 3}, 4, 1e-15);
}

/* ---- attention ---- */

/* Two prompts share k and v; the labels of the second hide its last key. */
Test(ref, attention_masks_keys_and_shares_them)
{
    double q[] = {1, 1}, k[] = {0, log(2), log(5)}, v[] = {10, 20, 40}, dst[2], lse[2];
    int32_t labels[] = {1, -1, 1, -2};
    RUN(OP_ATTENTION, ((OpAttr){.attention = {.heads = 1, .scale = 1, .n_free_keys = 1}}),
        ((Tensor[]){F64(q, 1, 2, 1, 1), F64(k, 1, 1, 3, 1), F64(v, 1, 1, 3, 1),
                    I32(labels, 1, 2, 2)}),
        ((Tensor[]){F64(dst, 1, 2, 1, 1), F64(lse, 1, 2, 1, 1)}));
    expect_near(dst, (double[]){(10 + 2 * 20 + 5 * 40) / 8.0, (10 + 2 * 20) / 3.0}, 2, 1e-13);
    expect_near(lse, (double[]){log(8), log(3)}, 2, 1e-14);
}

/* Heads are blocks of channels: head 0 sees only channel 0. */
Test(ref, attention_heads_are_channel_blocks)
{
    double q[] = {1, 1}, k[] = {0, 0, log(3), 0}, v[] = {1, 1, 5, 3}, dst[2], lse[2];
    RUN(OP_ATTENTION, ((OpAttr){.attention = {.heads = 2, .scale = 1, .n_free_keys = 2}}),
        ((Tensor[]){F64(q, 1, 1, 1, 2), F64(k, 1, 1, 2, 2), F64(v, 1, 1, 2, 2), NONE}),
        ((Tensor[]){F64(dst, 1, 1, 1, 2), F64(lse, 1, 1, 2, 1)}));
    expect_near(dst, (double[]){(1 + 3 * 5) / 4.0, 2}, 2, 1e-14);
    expect_near(lse, (double[]){log(4), log(2)}, 2, 1e-14);
}

/* k = 0, so only the position terms count: with q = 1 they are read off the tables directly. */
Test(ref, relpos_index_is_query_minus_key)
{
    enum { H = 2, W = 3, T = H * W };
    double qkv[T * 3], rel_h[2 * H - 1], rel_w[2 * W - 1], dst[T], lse[T];
    fill_random(rel_h, COUNT(rel_h), 1);
    fill_random(rel_w, COUNT(rel_w), 2);
    for (int t = 0; t < T; t++) {
        qkv[3 * t] = 1;
        qkv[3 * t + 1] = 0;
        qkv[3 * t + 2] = t * t;
    }
    RUN(OP_RELPOS_ATTENTION, ((OpAttr){.relpos_attention = {1}}),
        ((Tensor[]){F64(qkv, 1, H, W, 3), F64(rel_h, 2 * H - 1, 1), F64(rel_w, 2 * W - 1, 1)}),
        ((Tensor[]){F64(dst, 1, H, W, 1), F64(lse, 1, 1, T)}));
    for (int yq = 0; yq < H; yq++)
        for (int xq = 0; xq < W; xq++) {
            double sum = 0, weighted = 0;
            for (int yk = 0; yk < H; yk++)
                for (int xk = 0; xk < W; xk++) {
                    double e = exp(rel_h[yq - yk + H - 1] + rel_w[xq - xk + W - 1]);
                    sum += e;
                    weighted += e * (yk * W + xk) * (yk * W + xk);
                }
            expect_near(&dst[yq * W + xq], (double[]){weighted / sum}, 1, 1e-13);
            expect_near(&lse[yq * W + xq], (double[]){log(sum)}, 1, 1e-14);
        }
}

/* q.k is scaled by 1/sqrt(hd), the position terms are not. */
Test(ref, relpos_takes_the_unscaled_query)
{
    enum { HD = 4 };
    double qkv[3 * HD] = {1, 0, 0, 0, 6, 0, 0, 0}, rel_h[HD] = {0.25}, rel_w[HD] = {0.5}, dst[HD],
                   lse[1];
    RUN(OP_RELPOS_ATTENTION, ((OpAttr){.relpos_attention = {1}}),
        ((Tensor[]){F64(qkv, 1, 1, 1, 3 * HD), F64(rel_h, 1, HD), F64(rel_w, 1, HD)}),
        ((Tensor[]){F64(dst, 1, 1, 1, HD), F64(lse, 1, 1, 1)}));
    expect_near(lse, (double[]){6 / 2.0 + 0.25 + 0.5}, 1, 1e-15);
}

Test(ref, window_partition_pads_at_the_end)
{
    double src[] = {1, 2, 3, 4, 5, 6}, windows[8], back[6];
    WindowAttr attr = {.window = 2, .height = 2, .width = 3};
    RUN(OP_WINDOW_PARTITION, (OpAttr){.window_partition = attr}, ((Tensor[]){F64(src, 1, 2, 3, 1)}),
        ((Tensor[]){F64(windows, 2, 2, 2, 1)}));
    expect_near(windows, (double[]){1, 2, 4, 5, 3, 0, 6, 0}, 8, 0);
    RUN(OP_WINDOW_UNPARTITION, (OpAttr){.window_unpartition = attr},
        ((Tensor[]){F64(windows, 2, 2, 2, 1)}), ((Tensor[]){F64(back, 1, 2, 3, 1)}));
    expect_near(back, src, 6, 0);
}

/* The quadratic form, out = sum_n v_n (k_n.q) / (sum_n k_n.q + eps), of two heads. */
Test(ref, linear_attention_equals_its_quadratic_form)
{
    enum { N = 6, G = 2, D = 3, STRIDE = G * 3 * D };
    double src[N * STRIDE], dst[N * G * D];
    fill_random(src, COUNT(src), 3);
    RUN(OP_LINEAR_ATTENTION, ((OpAttr){.linear_attention = {D, 1e-3}}),
        ((Tensor[]){F64(src, 1, 2, 3, STRIDE)}), ((Tensor[]){F64(dst, 1, 2, 3, G * D)}));
    for (int n = 0; n < N; n++)
        for (int g = 0; g < G; g++) {
            double top[D] = {0}, bottom = 1e-3;
            for (int m = 0; m < N; m++) {
                double similarity = 0;
                for (int i = 0; i < D; i++)
                    similarity += fmax(src[n * STRIDE + g * 3 * D + i], 0) *
                                  fmax(src[m * STRIDE + g * 3 * D + D + i], 0);
                bottom += similarity;
                for (int j = 0; j < D; j++)
                    top[j] += similarity * src[m * STRIDE + g * 3 * D + 2 * D + j];
            }
            for (int j = 0; j < D; j++) top[j] /= bottom;
            expect_near(&dst[(n * G + g) * D], top, D, 1e-12);
        }
}

/* ---- resampling and positions ---- */

static void resize_row(ResizeMode mode, double *src, int64_t n, double *dst, int64_t width)
{
    RUN(OP_RESIZE, ((OpAttr){.resize = {mode, 1, width}}), ((Tensor[]){F64(src, 1, 1, n, 1)}),
        ((Tensor[]){F64(dst, 1, 1, width, 1)}));
}

/* Weights of 16 -> 64 at i mod 4 = 0, 1, 2, 3, and of 32 -> 64 at even i, read off a unit impulse.
 */
Test(ref, bicubic_weights)
{
    static const double wanted[4][4] = {{-0.065918, 0.426270, 0.749512, -0.109863},
                                        {-0.010254, 0.114746, 0.967285, -0.071777},
                                        {-0.071777, 0.967285, 0.114746, -0.010254},
                                        {-0.109863, 0.749512, 0.426270, -0.065918}};
    for (int i = 32; i < 36; i++)
        for (int k = 0; k < 4; k++) {
            double src[16] = {0}, dst[64];
            int64_t first = (int64_t)floor((i + 0.5) / 4 - 0.5) - 1;
            src[first + k] = 1;
            resize_row(RESIZE_BICUBIC, src, 16, dst, 64);
            expect_near(&dst[i], &wanted[i % 4][k], 1, 1e-6);
        }
    double src[32] = {0}, dst[64];
    src[14] = 1; /* output 32 lies at 15.75: taps 14, 15, 16, 17 */
    resize_row(RESIZE_BICUBIC, src, 32, dst, 64);
    expect_near(&dst[32], (double[]){-0.035156}, 1, 1e-6);
}

/* The source coordinate of output 0 is -0.375: bilinear clamps it, bicubic clamps only the taps. */
Test(ref, resize_at_the_border)
{
    double src[] = {1, 2, 4, 8}, dst[16];
    resize_row(RESIZE_BILINEAR, src, 4, dst, 16);
    expect_near(dst, (double[]){1, 1, 1.125}, 3, 1e-15);
    expect_near(&dst[15], (double[]){8}, 1, 1e-15);
    resize_row(RESIZE_BICUBIC, src, 4, dst, 16);
    expect_near(dst, (double[]){-0.109863281 * 2 + 1.109863281}, 1, 1e-8);
    resize_row(RESIZE_BICUBIC, src, 4, dst, 4);
    expect_near(dst, src, 4, 0);
}

/* <resize(a), b> = <a, resize_grad(b)> */
Test(ref, resize_grad_is_the_transpose)
{
    for (ResizeMode mode = RESIZE_BILINEAR; mode <= RESIZE_BICUBIC; mode++) {
        double a[3 * 5], b[7 * 4], up[7 * 4], down[3 * 5], left = 0, right = 0;
        fill_random(a, COUNT(a), 4);
        fill_random(b, COUNT(b), 5);
        RUN(OP_RESIZE, ((OpAttr){.resize = {mode, 7, 4}}), ((Tensor[]){F64(a, 1, 3, 5, 1)}),
            ((Tensor[]){F64(up, 1, 7, 4, 1)}));
        RUN(OP_RESIZE_GRAD, ((OpAttr){.resize_grad = {mode, 3, 5}}),
            ((Tensor[]){F64(b, 1, 7, 4, 1)}), ((Tensor[]){F64(down, 1, 3, 5, 1)}));
        for (int i = 0; i < 28; i++) left += up[i] * b[i];
        for (int i = 0; i < 15; i++) right += a[i] * down[i];
        expect_near(&left, &right, 1, 1e-13);
    }
}

/* The point (511.5, 255.5) of a frame of 1024 is u = (0, -0.5): angles 0 G0 - pi G1. */
Test(ref, point_embed_by_label)
{
    double coords[] = {511.5, 255.5, 511.5, 255.5, 511.5, 255.5}, g[] = {3, 0.5}, dst[6];
    double e[5][2] = {{1, 1}, {2, 2}, {3, 3}, {4, 4}, {7, 9}};
    int32_t labels[] = {3, -1, -2};
    RUN(OP_POINT_EMBED, ((OpAttr){.point_embed = {1024}}),
        ((Tensor[]){F64(coords, 1, 1, 3, 2), I32(labels, 1, 1, 3), F64(g, 2, 1), F64(e[0], 1, 2),
                    F64(e[1], 1, 2), F64(e[2], 1, 2), F64(e[3], 1, 2), F64(e[4], 1, 2)}),
        ((Tensor[]){F64(dst, 1, 1, 3, 2)}));
    expect_near(dst, (double[]){4 - 1, 4 + 0, 7, 9, 0, 0}, 6, 1e-14); /* sin and cos of -pi/2 */
    double de[5][2];
    RUN(OP_POINT_EMBED_GRAD, (OpAttr){0}, ((Tensor[]){I32(labels, 1, 1, 3), F64(dst, 1, 1, 3, 2)}),
        ((Tensor[]){F64(de[0], 1, 2), F64(de[1], 1, 2), F64(de[2], 1, 2), F64(de[3], 1, 2),
                    F64(de[4], 1, 2)}));
    expect_near(&de[0][0], (double[]){0, 0, 0, 0, 0, 0, 3, 4, 7, 9}, 10, 1e-14);
}

Test(ref, prompt_counts_count_images)
{
    double counts[] = {1, 1};
    int32_t labels[] = {1, 1, 1, -1, /* image 0: points */ 2, 3, -2, -2 /* image 1: a box */};
    RUN(OP_PROMPT_COUNTS, (OpAttr){0}, ((Tensor[]){I32(labels, 2, 2, 2)}),
        ((Tensor[]){F64(counts, 2)}));
    expect_near(counts, (double[]){2, 2}, 2, 0);
}

/* ---- optimiser ---- */

Test(ref, clip_by_norm_and_finiteness)
{
    double sumsq[] = {400}, loss[] = {1}, loss_scale[] = {4}, ok[1], norm[1], scale[1];
    Tensor src[] = {F64(sumsq, 1), F64(loss, 1), F64(loss_scale, 1)};
    Tensor dst[] = {F64(ok, 1), F64(norm, 1), F64(scale, 1)};
    OpAttr attr = {.clip = {.max_norm = 2}};
    RUN(OP_CLIP, attr, src, dst);
    expect_near(ok, (double[]){1}, 1, 0);
    expect_near(norm, (double[]){5}, 1, 1e-15);
    expect_near(scale, (double[]){2.0 / 5 / 4}, 1, 1e-15);
    loss[0] = NAN;
    RUN(OP_CLIP, attr, src, dst);
    expect_near(ok, (double[]){0}, 1, 0);
}

/* Two steps by hand with beta1 0.5, beta2 0.75, eps 0: the gradient 8 * 0.5 = 4 is clamped to 2.
 * step 1: w = 1 * (1 - 0.1*0.5) = 0.95, m/b1 = 2, v/b2 = 4: w = 0.95 - 0.1 = 0.85
 * step 2: gradient -1: w = 0.8075; m = 0.5*1 - 0.5 = 0, v = 0.75*1 + 0.25 = 1: w stays */
Test(ref, adamw_two_steps_by_hand)
{
    double grad[] = {8}, lr[] = {0.2}, ok[] = {1}, scale[] = {0.5}, gate[] = {1};
    double param[] = {1}, exp_avg[] = {0}, exp_avg_sq[] = {0}, step[] = {0};
    Tensor src[] = {F64(grad, 1), F64(lr, 1), F64(ok, 1), F64(scale, 1), F64(gate, 1)};
    Tensor dst[] = {F64(param, 1), F64(exp_avg, 1), F64(exp_avg_sq, 1), F64(step, 1)};
    OpAttr attr = {.adamw = {0.5, 0.75, 0, 0.5, .lr_scale = 0.5, .clip_value = 2}};
    RUN(OP_ADAMW, attr, src, dst);
    expect_near(param, (double[]){0.85}, 1, 1e-15);
    grad[0] = -2;
    RUN(OP_ADAMW, attr, src, dst);
    expect_near(param, (double[]){0.8075}, 1, 1e-15);
    expect_near(exp_avg, (double[]){0}, 1, 1e-15);
    expect_near(exp_avg_sq, (double[]){1}, 1, 1e-15);
    expect_near(step, (double[]){2}, 1, 0);
    gate[0] = 0;
    RUN(OP_ADAMW, attr, src, dst);
    gate[0] = 1;
    ok[0] = 0;
    RUN(OP_ADAMW, attr, src, dst);
    expect_near(param, (double[]){0.8075}, 1, 1e-15);
    expect_near(step, (double[]){2}, 1, 0);
}

/* ---- one source, two types ---- */

Test(ref, f32_rounds_the_f64_result)
{
    double src[] = {0.3, -1.7, 2.9}, dst[3];
    float src_low[3], dst_low[3];
    for (int i = 0; i < 3; i++) src_low[i] = (float)src[i];
    for (int i = 0; i < 3; i++) src[i] = src_low[i];
    OpAttr attr = {.act = {ACT_GELU_ERF}};
    RUN(OP_ACT, attr, ((Tensor[]){F64(src, 3)}), ((Tensor[]){F64(dst, 3)}));
    RUN(OP_ACT, attr, ((Tensor[]){F32(src_low, 3)}), ((Tensor[]){F32(dst_low, 3)}));
    for (int i = 0; i < 3; i++) cr_assert_eq(dst_low[i], (float)dst[i]);
}
