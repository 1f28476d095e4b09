/* Residual addition and normalisation, row by row. */

#include <math.h>

#include "common.h"

/*
 * A bias makes it LayerNorm. `mean` and `scale` are what is subtracted from each row, and what the
 * rest is multiplied by. The rows of the residual may be fewer, and are then repeated.
 */
void add_norm(
    const float *hidden, const float *residual, const float *weight, const float *bias, float eps,
    float *normed, float *total, float *mean, float *scale,
    int64_t rows, int64_t residual_rows, int64_t width, int64_t threads)
{
    #pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < rows; row++) {
        const int64_t here = row * width;
        const float *added = residual ? residual + row % residual_rows * width : 0;
        float *out = normed + here, *all = total + here, sum = 0, squares = 0;

        #pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < width; c++)
            sum += all[c] = added ? hidden[here + c] + added[c] : hidden[here + c];
        const float centre = bias ? sum / width : 0;
        #pragma omp simd reduction(+ : squares)
        for (int64_t c = 0; c < width; c++)
            squares += (all[c] - centre) * (all[c] - centre);
        const float factor = 1 / sqrtf(squares / width + eps);
        EACH_CHANNEL
        for (int64_t c = 0; c < width; c++)
            out[c] = (all[c] - centre) * factor * weight[c] + (bias ? bias[c] : 0);
        mean[row] = centre;
        scale[row] = factor;
    }
}

/*
 * The gradient of the sum goes to dhidden and, if that is given, dresidual. sums are those of
 * weight and bias, of PART rows each: (parts, 2, width).
 */
void add_norm_backward(
    const float *dnormed, const float *dtotal, const float *total, const float *mean,
    const float *scale, const float *weight, const float *bias,
    float *dhidden, float *dresidual, float *normed, float *sums,
    int64_t rows, int64_t width, int64_t threads)
{
    #pragma omp parallel for num_threads(threads)
    for (int64_t part = 0; part < (rows + PART - 1) / PART; part++) {
        float *dweight = sums + part * 2 * width, *dbias = dweight + width;
        memset(dweight, 0, 2 * width * sizeof *dweight);
        for (int64_t row = part * PART; row < rows && row < (part + 1) * PART; row++) {
            const int64_t here = row * width;
            const float *d = dnormed + here, *all = total + here;
            const float centre = mean[row], factor = scale[row];
            float plain = 0, along = 0; /* sums of the gradient, and of it times the row */

            #pragma omp simd reduction(+ : plain, along)
            for (int64_t c = 0; c < width; c++) {
                const float unit = (all[c] - centre) * factor;
                plain += d[c] * weight[c];
                along += d[c] * weight[c] * unit;
                dweight[c] += d[c] * unit;
                dbias[c] += d[c];
                if (normed)
                    normed[here + c] = unit * weight[c] + (bias ? bias[c] : 0);
            }
            plain = bias ? plain / width : 0;
            along /= width;
            EACH_CHANNEL
            for (int64_t c = 0; c < width; c++) {
                const float unit = (all[c] - centre) * factor;
                float dx = (d[c] * weight[c] - plain - along * unit) * factor;
                if (dtotal)
                    dx += dtotal[here + c];
                dhidden[here + c] = dx;
                if (dresidual)
                    dresidual[here + c] = dx;
            }
        }
    }
}
