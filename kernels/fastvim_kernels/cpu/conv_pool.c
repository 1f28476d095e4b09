/* Convolution, SiLU and pooling of both directions, in one pass over the tokens each way. */

#include "common.h"

/* Parameters of some channels: (2, taps, WIDTH) and twice (2, WIDTH) of those of all. */
INLINED void load(
    const float *weight, const float *bias, const float *skip,
    int64_t channels, int width, int taps,
    float tap[2][taps][WIDTH], float offset[2][WIDTH], float share[2][WIDTH])
{
    for (int d = 0; d < 2; d++)
        for (int c = 0; c < width; c++) {
            offset[d][c] = bias[d * channels + c];
            share[d][c] = skip[d * channels + c];
            for (int k = 0; k < taps; k++)
                tap[d][k][c] = weight[(d * channels + c) * taps + k];
        }
}

static const float nothing[WIDTH]; /* what lies before the first token and after the last */

/* Let `near` be the tokens from t - reach to t + reach, after those around t - 1. */
INLINED void advance(const float **near, struct tokens x, int64_t t, int64_t length, int reach)
{
    for (int k = 0; k < 2 * reach; k++)
        near[k] = near[k + 1];
    near[2 * reach] = t + reach < length ? at(x, t + reach) : nothing;
}

/* Some channels of one image. Step s of direction d is pooled[d * of_direction + s * channels]. */
INLINED void convolve(
    struct tokens x, int64_t length, const float *weight, const float *bias, const float *skip,
    float *pooled, int64_t of_direction, const int64_t *step, int64_t steps, int maximum,
    struct tokens skipped, int64_t channels, int width, int taps)
{
    const int reach = taps - 1;
    float tap[2][taps][WIDTH], offset[2][WIDTH], share[2][WIDTH];
    const float *near[2 * reach + 1];

    load(weight, bias, skip, channels, width, taps, tap, offset, share);
    for (int64_t s = 0; s < steps; s++)
        for (int c = 0; c < width; c++)
            pooled[s * channels + c] = pooled[of_direction + s * channels + c]
                = maximum ? -__builtin_inff() : 0;
    for (int k = 0; k <= 2 * reach; k++)
        near[k] = nothing;
    for (int64_t t = -reach; t < 0; t++)
        advance(near, x, t, length, reach);

    for (int64_t t = 0; t < length; t++) {
        float *first = pooled + step[t] * channels, *second = first + of_direction;
        float *out = at(skipped, t);
        advance(near, x, t, length, reach);
        EACH_CHANNEL
        for (int c = 0; c < width; c++) {
            float earlier = offset[0][c], later = offset[1][c];
            for (int k = 0; k < taps; k++) {
                earlier += tap[0][k][c] * near[k][c];
                later += tap[1][k][c] * near[2 * reach - k][c];
            }
            earlier = silu(earlier);
            later = silu(later);
            out[c] = share[0][c] * earlier + share[1][c] * later;
            if (maximum) { /* no number if one is none */
                first[c] = earlier > first[c] || earlier != earlier ? earlier : first[c];
                second[c] = later > second[c] || later != later ? later : second[c];
            } else {
                first[c] += earlier;
                second[c] += later;
            }
        }
    }
    if (maximum || steps == length)
        return;
    const float part = (float)steps / length;
    for (int64_t s = 0; s < steps; s++)
        for (int c = 0; c < width; c++) {
            pooled[s * channels + c] *= part;
            pooled[of_direction + s * channels + c] *= part;
        }
}

/* `step` is that of each token, and pooled (2, batch, steps, channels). */
void conv_pool(
    struct tokens x, int64_t length, const float *weight, const float *bias, const float *skip,
    float *pooled, const int64_t *step, int64_t steps, int64_t maximum, struct tokens skipped,
    int64_t batch, int64_t channels, int64_t taps, int64_t threads)
{
    const int64_t blocks = (channels + WIDTH - 1) / WIDTH;
    #pragma omp parallel for num_threads(threads)
    for (int64_t task = 0; task < batch * blocks; task++) {
        const int64_t image = task / blocks, c = task % blocks * WIDTH;
        const int width = channels - c < WIDTH ? channels - c : WIDTH;
        #define CONVOLVE(maximum, width, taps) convolve( \
            from(x, image, c), length, weight + c * taps, bias + c, skip + c, \
            pooled + image * steps * channels + c, batch * steps * channels, step, steps, maximum, \
            from(skipped, image, c), channels, width, taps)
        if (taps == 4 && width == WIDTH && !maximum)
            CONVOLVE(0, WIDTH, 4);
        else if (taps == 4 && width == WIDTH)
            CONVOLVE(1, WIDTH, 4);
        else
            CONVOLVE(maximum, width, taps);
    }
}

/* Of means. `sums` gets this image's part of the gradients of weight, bias and skip. */
INLINED void convolve_backward(
    const float *dpooled, int64_t of_direction, const int64_t *step, float part,
    struct tokens dskipped, struct tokens x, int64_t length,
    const float *weight, const float *bias, const float *skip,
    struct tokens dx, float *sums, int64_t channels, int width, int taps)
{
    const int reach = taps - 1;
    float tap[2][taps][WIDTH], offset[2][WIDTH], share[2][WIDTH], total[2][taps + 2][WIDTH];
    const float *near[2 * reach + 1];
    float last[2][2 * reach + 1][WIDTH];    /* gradients before SiLU of the last tokens */
    float *behind[2][2 * reach + 1];        /* the same, oldest first */

    load(weight, bias, skip, channels, width, taps, tap, offset, share);
    memset(total, 0, sizeof total);
    memset(last, 0, sizeof last);
    for (int k = 0; k <= 2 * reach; k++) {
        near[k] = nothing;
        behind[0][k] = last[0][k];
        behind[1][k] = last[1][k];
    }
    for (int64_t t = -reach; t < 0; t++)
        advance(near, x, t, length, reach);

    /* a token has its gradient when all that it reaches have theirs */
    for (int64_t t = 0; t < length + reach; t++) {
        float *first = behind[0][0], *second = behind[1][0];
        for (int k = 0; k < 2 * reach; k++) {
            behind[0][k] = behind[0][k + 1];
            behind[1][k] = behind[1][k + 1];
        }
        behind[0][2 * reach] = first;
        behind[1][2 * reach] = second;
        advance(near, x, t, length, reach);
        if (t < length) {
            const float *seed = at(dskipped, t);
            const float *one = dpooled + step[t] * channels, *other = one + of_direction;
            EACH_CHANNEL
            for (int c = 0; c < width; c++) {
                float earlier = offset[0][c], later = offset[1][c];
                for (int k = 0; k < taps; k++) {
                    earlier += tap[0][k][c] * near[k][c];
                    later += tap[1][k][c] * near[2 * reach - k][c];
                }
                const float s = sigmoid(earlier), r = sigmoid(later);
                first[c] = (seed[c] * share[0][c] + one[c] * part) * slope_of_silu(earlier, s);
                second[c] = (seed[c] * share[1][c] + other[c] * part) * slope_of_silu(later, r);
                for (int k = 0; k < taps; k++) {
                    total[0][k][c] += first[c] * near[k][c];
                    total[1][k][c] += second[c] * near[2 * reach - k][c];
                }
                total[0][taps][c] += first[c];
                total[1][taps][c] += second[c];
                total[0][taps + 1][c] += seed[c] * earlier * s;
                total[1][taps + 1][c] += seed[c] * later * r;
            }
        } else {
            memset(first, 0, sizeof *last[0]);
            memset(second, 0, sizeof *last[1]);
        }
        if (t < reach)
            continue;
        float *out = at(dx, t - reach);
        EACH_CHANNEL
        for (int c = 0; c < width; c++) {
            float d = 0;
            for (int k = 0; k < taps; k++)
                d += tap[0][k][c] * behind[0][2 * reach - k][c] + tap[1][k][c] * behind[1][k][c];
            out[c] = d;
        }
    }
    for (int k = 0; k < 2 * (taps + 2); k++)
        memcpy(sums + k * channels, total[k / (taps + 2)][k % (taps + 2)], width * sizeof *sums);
}

/* sums is (batch, 2, taps + 2, channels). */
void conv_pool_backward(
    const float *dpooled, const int64_t *step, int64_t steps, struct tokens dskipped,
    struct tokens x, int64_t length, const float *weight, const float *bias, const float *skip,
    struct tokens dx, float *sums, int64_t batch, int64_t channels, int64_t taps, int64_t threads)
{
    const int64_t blocks = (channels + WIDTH - 1) / WIDTH;
    const float part = (float)steps / length; /* a token's share of a mean */
    #pragma omp parallel for num_threads(threads)
    for (int64_t task = 0; task < batch * blocks; task++) {
        const int64_t image = task / blocks, c = task % blocks * WIDTH;
        const int width = channels - c < WIDTH ? channels - c : WIDTH;
        #define CONVOLVE_BACKWARD(width, taps) convolve_backward( \
            dpooled + image * steps * channels + c, batch * steps * channels, step, part, \
            from(dskipped, image, c), from(x, image, c), length, \
            weight + c * taps, bias + c, skip + c, from(dx, image, c), \
            sums + image * 2 * (taps + 2) * channels + c, channels, width, taps)
        if (taps == 4 && width == WIDTH)
            CONVOLVE_BACKWARD(WIDTH, 4);
        else
            CONVOLVE_BACKWARD(width, taps);
    }
}
