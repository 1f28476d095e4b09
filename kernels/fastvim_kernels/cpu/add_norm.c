/* Residual addition and normalisation, row by row. */

#include <math.h>
#include <stdint.h>

/* A bias makes it LayerNorm. mean and scale: what is subtracted from a row, and multiplied with. */
void add_norm(
    const float *hidden, const float *residual, const float *weight, const float *bias, float eps,
    float *normed, float *total, float *mean, float *scale,
    int64_t rows, int64_t residual_rows, int64_t width, int64_t threads)
{
    #pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < rows; row++) {
        const int64_t here = row * width;
        const float *added = residual ? residual + row % residual_rows * width : residual;
        float *out = normed + here, *all = total + here, sum = 0, squares = 0;

        #pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < width; c++)
            sum += all[c] = added ? hidden[here + c] + added[c] : hidden[here + c];
        const float centre = bias ? sum / width : 0;
        #pragma omp simd reduction(+ : squares)
        for (int64_t c = 0; c < width; c++)
            squares += (all[c] - centre) * (all[c] - centre);
        const float factor = 1 / sqrtf(squares / width + eps);
        #pragma omp simd
        for (int64_t c = 0; c < width; c++)
            out[c] = (all[c] - centre) * factor * weight[c] + (bias ? bias[c] : 0);
        mean[row] = centre;
        scale[row] = factor;
    }
}
