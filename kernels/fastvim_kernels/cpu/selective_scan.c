/* The selective state-space recurrence, both directions. */

#include "vectors.h"

#define WIDTH 16 /* channels of a task, whose states stay in the cache */

/* Steps of one direction of one image, some channels of them; `back` for the second direction. */
static inline __attribute__((always_inline)) void scan(
    const float *u, const float *dt, const float *dt_bias, const float *A_log,
    const float *B, int64_t B_stride, const float *C, int64_t C_stride, float *y,
    float *starts, int64_t of_chunk, int64_t chunk,
    int64_t steps, int64_t channels, int states, int back, int width)
{
    float rate[states][WIDTH], h[states][WIDTH], length[WIDTH], fed[WIDTH], out[WIDTH];

    for (int n = 0; n < states; n++)
        for (int c = 0; c < width; c++) {
            rate[n][c] = -LOG2_E * power_of_2(LOG2_E * A_log[c * states + n]);
            h[n][c] = 0;
        }
    for (int64_t s = 0; s < steps; s++) {
        const int64_t t = back ? steps - 1 - s : s;
        if (starts && s && s % chunk == 0)
            for (int n = 0; n < states; n++)
                memcpy(starts + (s / chunk - 1) * of_chunk + n * channels, h[n], width * sizeof **h);
        EACH_CHANNEL
        for (int c = 0; c < width; c++) {
            length[c] = softplus(dt[t * channels + c] + dt_bias[c]);
            fed[c] = length[c] * u[t * channels + c];
            out[c] = 0;
        }
        for (int n = 0; n < states; n++) {
            const float in = B[t * B_stride + n], seen = C[t * C_stride + n];
            EACH_CHANNEL
            for (int c = 0; c < width; c++) {
                h[n][c] = power_of_2(length[c] * rate[n][c]) * h[n][c] + in * fed[c];
                out[c] += seen * h[n][c];
            }
        }
        memcpy(y + t * channels, out, width * sizeof *out);
    }
}

void selective_scan(
    const float *u, const float *dt, const float *dt_bias, const float *A_log,
    const float *B, int64_t B_direction, int64_t B_image, int64_t B_step,
    const float *C, int64_t C_direction, int64_t C_image, int64_t C_step,
    float *y, float *starts, int64_t chunk,
    int64_t batch, int64_t steps, int64_t channels, int64_t states, int64_t threads)
{
    const int64_t blocks = (channels + WIDTH - 1) / WIDTH;
    #pragma omp parallel for num_threads(threads)
    for (int64_t task = 0; task < 2 * batch * blocks; task++) {
        const int64_t line = task / blocks, d = line / batch, image = line % batch;
        const int64_t c = task % blocks * WIDTH, here = line * steps * channels + c;
        const int width = channels - c < WIDTH ? channels - c : WIDTH;
        #define SCAN(width) scan( \
            u + here, dt + here, dt_bias + d * channels + c, A_log + (d * channels + c) * states, \
            B + d * B_direction + image * B_image, B_step, \
            C + d * C_direction + image * C_image, C_step, y + here, \
            starts ? starts + line * states * channels + c : starts, \
            2 * batch * states * channels, chunk, steps, channels, states, d, width)
        if (width == WIDTH)
            SCAN(WIDTH);
        else
            SCAN(width);
    }
}
