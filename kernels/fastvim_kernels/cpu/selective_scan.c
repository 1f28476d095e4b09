/* The selective state-space recurrence, both directions. */

#include <stdlib.h>

#include "common.h"

/* Steps of one direction of one image, some channels of them; `back` for the second direction. */
INLINED void scan(
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
                memcpy(starts + (s / chunk - 1) * of_chunk + n * channels, h[n],
                    width * sizeof **h);
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

/*
 * u, dt and y are (2, batch, steps, channels). The state before every chunk but the first goes to
 * starts, (chunk, 2, batch, states, channels), if that is given.
 */
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
            starts ? starts + line * states * channels + c : 0, \
            2 * batch * states * channels, chunk, steps, channels, states, d, width)
        if (width == WIDTH)
            SCAN(WIDTH);
        else
            SCAN(width);
    }
}

/*
 * Gradients of one direction of one image, some channels of them. The states of a chunk are
 * computed again from the one before it, and kept with their decay in `held`.
 */
INLINED void scan_backward(
    const float *dy, const float *u, const float *dt, const float *dt_bias, const float *A_log,
    const float *B, int64_t B_stride, const float *C, int64_t C_stride,
    const float *starts, int64_t of_chunk, int64_t chunk,
    float *du, float *ddt, float *dbias, float *dA_log, float *dB, float *dC,
    int64_t steps, int64_t channels, int states, int back, int width, float *held)
{
    float rate[states][WIDTH], carried[states][WIDTH], drate[states][WIDTH], sum[WIDTH];
    float (*decay)[states][WIDTH] = (void *)held, (*h)[states][WIDTH] = decay + chunk;
    float (*length)[WIDTH] = (void *)(h + chunk + 1); /* h has the state before the chunk, too */

    memset(carried, 0, sizeof carried);
    memset(drate, 0, sizeof drate);
    memset(sum, 0, sizeof sum);
    for (int n = 0; n < states; n++)
        for (int c = 0; c < width; c++)
            rate[n][c] = -LOG2_E * power_of_2(LOG2_E * A_log[c * states + n]);

    for (int64_t start = (steps - 1) / chunk * chunk; start >= 0; start -= chunk) {
        const int64_t count = steps - start < chunk ? steps - start : chunk;
        for (int n = 0; n < states; n++)
            if (start)
                memcpy(h[0][n], starts + (start / chunk - 1) * of_chunk + n * channels,
                    width * sizeof ***h);
            else
                memset(h[0][n], 0, sizeof h[0][n]);
        for (int64_t s = 0; s < count; s++) {
            const int64_t t = back ? steps - 1 - start - s : start + s;
            float fed[WIDTH];
            EACH_CHANNEL
            for (int c = 0; c < width; c++) {
                length[s][c] = softplus(dt[t * channels + c] + dt_bias[c]);
                fed[c] = length[s][c] * u[t * channels + c];
            }
            for (int n = 0; n < states; n++) {
                const float in = B[t * B_stride + n];
                EACH_CHANNEL
                for (int c = 0; c < width; c++) {
                    decay[s][n][c] = power_of_2(length[s][c] * rate[n][c]);
                    h[s + 1][n][c] = decay[s][n][c] * h[s][n][c] + in * fed[c];
                }
            }
        }
        for (int64_t s = count - 1; s >= 0; s--) {
            const int64_t t = back ? steps - 1 - start - s : start + s;
            const float *seed = dy + t * channels;
            float fed[WIDTH], dfed[WIDTH], dlength[WIDTH];
            EACH_CHANNEL
            for (int c = 0; c < width; c++) {
                fed[c] = length[s][c] * u[t * channels + c];
                dfed[c] = dlength[c] = 0;
            }
            for (int n = 0; n < states; n++) {
                const float in = B[t * B_stride + n], seen = C[t * C_stride + n];
                float to_in = 0, to_seen = 0;
                #pragma omp simd reduction(+ : to_in, to_seen)
                for (int c = 0; c < width; c++) {
                    const float dh = seen * seed[c] + carried[n][c];
                    to_seen += seed[c] * h[s + 1][n][c];
                    to_in += dh * fed[c];
                    dfed[c] += in * dh;
                    carried[n][c] = decay[s][n][c] * dh;
                    const float dexponent = carried[n][c] * h[s][n][c];
                    drate[n][c] += dexponent * length[s][c];
                    dlength[c] += dexponent * rate[n][c];
                }
                dB[t * states + n] = to_in;
                dC[t * states + n] = to_seen;
            }
            EACH_CHANNEL
            for (int c = 0; c < width; c++) {
                const float d = dlength[c] * (1 / LOG2_E) + dfed[c] * u[t * channels + c];
                const float before = d * sigmoid(dt[t * channels + c] + dt_bias[c]);
                du[t * channels + c] = dfed[c] * length[s][c];
                ddt[t * channels + c] = before;
                sum[c] += before;
            }
        }
    }
    memcpy(dbias, sum, width * sizeof *sum);
    for (int n = 0; n < states; n++)
        for (int c = 0; c < width; c++)
            dA_log[c * states + n] = drate[n][c] * rate[n][c] * (1 / LOG2_E);
}

/*
 * dbias and dA_log are each image's, (2, batch, channels) and (2, batch, channels, states); dB and
 * dC each block's of WIDTH channels, (block, 2, batch, steps, states).
 */
void selective_scan_backward(
    const float *dy, int64_t dy_direction,
    const float *u, const float *dt, const float *dt_bias, const float *A_log,
    const float *B, int64_t B_direction, int64_t B_image, int64_t B_step,
    const float *C, int64_t C_direction, int64_t C_image, int64_t C_step,
    const float *starts, int64_t chunk,
    float *du, float *ddt, float *dbias, float *dA_log, float *dB, float *dC,
    int64_t batch, int64_t steps, int64_t channels, int64_t states, int64_t threads)
{
    const int64_t blocks = (channels + WIDTH - 1) / WIDTH, lines = 2 * batch;
    #pragma omp parallel num_threads(threads)
    {
        float *held = malloc(((2 * chunk + 1) * states + chunk) * WIDTH * sizeof *held);
        #pragma omp for
        for (int64_t task = 0; task < lines * blocks; task++) {
            const int64_t line = task / blocks, d = line / batch, image = line % batch;
            const int64_t block = task % blocks, c = block * WIDTH;
            const int64_t here = line * steps * channels + c, of_block = block * lines + line;
            const int width = channels - c < WIDTH ? channels - c : WIDTH;
            #define SCAN_BACKWARD(width) scan_backward( \
                dy + d * dy_direction + image * steps * channels + c, u + here, dt + here, \
                dt_bias + d * channels + c, A_log + (d * channels + c) * states, \
                B + d * B_direction + image * B_image, B_step, \
                C + d * C_direction + image * C_image, C_step, \
                starts + line * states * channels + c, lines * states * channels, chunk, \
                du + here, ddt + here, dbias + line * channels + c, \
                dA_log + (line * channels + c) * states, \
                dB + of_block * steps * states, dC + of_block * steps * states, \
                steps, channels, states, d, width, held)
            if (width == WIDTH)
                SCAN_BACKWARD(WIDTH);
            else
                SCAN_BACKWARD(width);
        }
        free(held);
    }
}
