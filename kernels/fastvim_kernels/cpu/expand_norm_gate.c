/* The scan's output on the full grid: skip, both directions, LayerNorm, gate, token by token. */

#include <math.h>

#include "common.h"

/*
 * Mean and 1 / deviation of a token before its norm, which is left in `mixed`: half of y's two
 * directions and skip. Zero and one if there is no norm.
 */
static inline void mix(
    const float *first, const float *second, const float *skip, int norm, float eps,
    int64_t channels, float *mixed, float *mean, float *scale)
{
    float sum = 0, squares = 0;

    #pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < channels; c++)
        sum += mixed[c] = (first[c] + second[c] + skip[c]) / 2;
    const float centre = norm ? sum / channels : 0;
    if (norm) {
        #pragma omp simd reduction(+ : squares)
        for (int64_t c = 0; c < channels; c++)
            squares += (mixed[c] - centre) * (mixed[c] - centre);
    }
    *mean = centre;
    *scale = norm ? 1 / sqrtf(squares / channels + eps) : 1;
}

/* y is (2, batch, steps, channels), and `step` that of each token. No weight is no norm. */
void expand_norm_gate(
    const float *y, const int64_t *step, int64_t steps, struct tokens skipped, struct tokens z,
    const float *weight, const float *bias, float eps, struct tokens out,
    int64_t batch, int64_t length, int64_t channels, int64_t threads)
{
    #pragma omp parallel for num_threads(threads)
    for (int64_t token = 0; token < batch * length; token++) {
        const int64_t image = token / length, t = token % length;
        const float *first = y + (image * steps + step[t]) * channels;
        const float *gate = at(from(z, image, 0), t);
        float mixed[channels], mean, scale, *result = at(from(out, image, 0), t);

        mix(first, first + batch * steps * channels, at(from(skipped, image, 0), t), weight != 0,
            eps, channels, mixed, &mean, &scale);
        EACH_CHANNEL
        for (int64_t c = 0; c < channels; c++) {
            const float normed = (mixed[c] - mean) * scale;
            result[c] = (weight ? normed * weight[c] + bias[c] : normed) * silu(gate[c]);
        }
    }
}

/*
 * dskipped and gated, if that is wanted, lie alike. sums are the gradients of weight and bias, of
 * PART tokens each: (parts, 2, channels).
 */
void expand_norm_gate_backward(
    struct tokens dout, const float *y, const int64_t *step, int64_t steps,
    struct tokens skipped, struct tokens z, const float *weight, const float *bias, float eps,
    struct tokens dskipped, float *gated, struct tokens dz, float *sums,
    int64_t batch, int64_t length, int64_t channels, int64_t threads)
{
    #pragma omp parallel for num_threads(threads)
    for (int64_t part = 0; part < (batch * length + PART - 1) / PART; part++) {
        float *dweight = sums + part * 2 * channels, *dbias = dweight + channels;
        memset(dweight, 0, 2 * channels * sizeof *dweight);
        for (int64_t i = part * PART; i < batch * length && i < (part + 1) * PART; i++) {
            const int64_t image = i / length, t = i % length;
            const float *first = y + (image * steps + step[t]) * channels;
            const float *gate = at(from(z, image, 0), t), *seed = at(from(dout, image, 0), t);
            float *dgate = at(from(dz, image, 0), t), *dskip = at(from(dskipped, image, 0), t);
            float *result = gated ? gated + (dskip - dskipped.data) : 0;
            float mixed[channels], dnormed[channels], mean, scale, plain = 0, along = 0;

            mix(first, first + batch * steps * channels, at(from(skipped, image, 0), t),
                weight != 0, eps, channels, mixed, &mean, &scale);
            #pragma omp simd reduction(+ : plain, along)
            for (int64_t c = 0; c < channels; c++) {
                const float s = sigmoid(gate[c]), open = gate[c] * s, d = seed[c] * open;
                const float unit = (mixed[c] - mean) * scale;
                const float normed = weight ? unit * weight[c] + bias[c] : unit;
                dgate[c] = seed[c] * normed * slope_of_silu(gate[c], s);
                if (result)
                    result[c] = normed * open;
                dweight[c] += d * unit;
                dbias[c] += d;
                dnormed[c] = weight ? d * weight[c] : d;
                plain += dnormed[c];
                along += dnormed[c] * unit;
            }
            plain = weight ? plain / channels : 0;
            along = weight ? along / channels : 0;
            EACH_CHANNEL
            for (int64_t c = 0; c < channels; c++) {
                const float unit = (mixed[c] - mean) * scale;
                dskip[c] = (dnormed[c] - plain - along * unit) * scale / 2;
            }
        }
    }
}
