/* Convolution, SiLU and pooling of both directions, in one pass over the tokens. */

#include "vectors.h"

#define WIDTH 32 /* channels of a task: two lines of the cache of each token */

/*
 * The tokens of one image, some channels of them. `place` and `into` are where each token lies in
 * x and skipped, and `step` where it is pooled. Strides and places are in floats.
 */
static inline __attribute__((always_inline)) void convolve(
    const float *x, const int64_t *place, int64_t tokens,
    const float *weight, const float *bias, const float *skip,
    float *pooled, int64_t of_direction, const int64_t *step, int64_t steps, int maximum,
    float *skipped, const int64_t *into,
    int64_t channels, int width, int taps)
{
    const int reach = taps - 1;
    float tap[2][taps][WIDTH], offset[2][WIDTH], share[2][WIDTH], nothing[WIDTH];
    const float *near[2 * reach + 1]; /* the tokens around the current one */

    for (int c = 0; c < width; c++) {
        nothing[c] = 0;
        for (int d = 0; d < 2; d++) {
            offset[d][c] = bias[d * channels + c];
            share[d][c] = skip[d * channels + c];
            for (int k = 0; k < taps; k++)
                tap[d][k][c] = weight[(d * channels + c) * taps + k];
        }
    }
    for (int64_t s = 0; s < steps; s++)
        for (int c = 0; c < width; c++)
            pooled[s * channels + c] = pooled[of_direction + s * channels + c]
                = maximum ? -__builtin_inff() : 0;
    for (int k = 0; k <= 2 * reach; k++)
        near[k] = k > reach && k - reach <= tokens ? x + place[k - reach - 1] : nothing;

    for (int64_t t = 0; t < tokens; t++) {
        for (int k = 0; k < 2 * reach; k++)
            near[k] = near[k + 1];
        near[2 * reach] = t + reach < tokens ? x + place[t + reach] : nothing;
        float *first = pooled + step[t] * channels, *second = first + of_direction;
        float *out = skipped + into[t];
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
            if (maximum) { /* that is no number if one is none */
                first[c] = earlier > first[c] || earlier != earlier ? earlier : first[c];
                second[c] = later > second[c] || later != later ? later : second[c];
            } else {
                first[c] += earlier;
                second[c] += later;
            }
        }
    }
    if (maximum || steps == tokens)
        return;
    const float part = (float)steps / tokens;
    for (int64_t s = 0; s < steps; s++)
        for (int c = 0; c < width; c++) {
            pooled[s * channels + c] *= part;
            pooled[of_direction + s * channels + c] *= part;
        }
}

void conv_pool(
    const float *x, int64_t x_stride, const int64_t *place, int64_t tokens,
    const float *weight, const float *bias, const float *skip,
    float *pooled, const int64_t *step, int64_t steps, int64_t maximum,
    float *skipped, int64_t skipped_stride, const int64_t *into,
    int64_t batch, int64_t channels, int64_t taps, int64_t threads)
{
    const int64_t blocks = (channels + WIDTH - 1) / WIDTH;
    #pragma omp parallel for num_threads(threads)
    for (int64_t task = 0; task < batch * blocks; task++) {
        const int64_t image = task / blocks, c = task % blocks * WIDTH;
        const int width = channels - c < WIDTH ? channels - c : WIDTH;
        #define CONVOLVE(width, taps, maximum) convolve( \
            x + image * x_stride + c, place, tokens, weight + c * taps, bias + c, skip + c, \
            pooled + image * steps * channels + c, batch * steps * channels, step, steps, maximum, \
            skipped + image * skipped_stride + c, into, channels, width, taps)
        if (taps == 4 && width == WIDTH && !maximum)
            CONVOLVE(WIDTH, 4, 0);
        else
            CONVOLVE(width, taps, maximum);
    }
}
