/* The scan's output on the full grid: skip, both directions, LayerNorm, gate, token by token. */

#include <math.h>

#include "vectors.h"

void expand_norm_gate(
    const float *y, const int64_t *step, int64_t steps,
    const float *skipped, int64_t skipped_stride, const int64_t *skipped_place,
    const float *z, int64_t z_stride, const int64_t *z_place,
    const float *weight, const float *bias, float eps,
    float *out, int64_t out_stride, const int64_t *into,
    int64_t batch, int64_t tokens, int64_t channels, int64_t threads)
{
    #pragma omp parallel for num_threads(threads)
    for (int64_t task = 0; task < batch * tokens; task++) {
        const int64_t image = task / tokens, t = task % tokens;
        const float *first = y + (image * steps + step[t]) * channels;
        const float *second = first + batch * steps * channels;
        const float *skip = skipped + image * skipped_stride + skipped_place[t];
        const float *gate = z + image * z_stride + z_place[t];
        float *result = out + image * out_stride + into[t];
        float mixed[channels], sum = 0, squares = 0;

        #pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < channels; c++)
            sum += mixed[c] = (first[c] + second[c] + skip[c]) / 2;
        if (!weight) {
            EACH_CHANNEL
            for (int64_t c = 0; c < channels; c++)
                result[c] = mixed[c] * silu(gate[c]);
            continue;
        }
        const float mean = sum / channels;
        #pragma omp simd reduction(+ : squares)
        for (int64_t c = 0; c < channels; c++)
            squares += (mixed[c] - mean) * (mixed[c] - mean);
        const float scale = 1 / sqrtf(squares / channels + eps);
        EACH_CHANNEL
        for (int64_t c = 0; c < channels; c++)
            result[c] = ((mixed[c] - mean) * scale * weight[c] + bias[c]) * silu(gate[c]);
    }
}
