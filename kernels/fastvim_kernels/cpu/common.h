/*
 * What the kernels share: tokens of any strides, and arithmetic that a compiler turns into that on
 * vectors, without branches, calls and tables.
 */

#include <stdint.h>
#include <string.h>

#define LOG2_E 1.44269504f
#define EACH_CHANNEL _Pragma("omp simd")
#define INLINED static inline __attribute__((always_inline)) /* for what calls make constant */

/* A tensor (batch, *grid, channel), channels adjacent: strides and places are in floats. */
struct tokens {
    float *data;
    int64_t image;         /* stride of the batch */
    const int64_t *place;  /* of each token of an image, in the order of the grid */
};

static inline float *at(struct tokens v, int64_t token)
{
    return v.data + v.place[token];
}

/* One image from a channel on. */
static inline struct tokens from(struct tokens v, int64_t image, int64_t channel)
{
    v.data += image * v.image + channel;
    return v;
}

/*
 * 2^x to one unit in the last place or two. x is taken to be at least -100 and at most 100: what is
 * beyond counts as nothing beside 1, and its products may be denormal, for which a processor takes
 * a hundred times as long.
 */
static inline float power_of_2(float x)
{
    x = x < -100.f ? -100.f : x;
    x = x > 100.f ? 100.f : x;
    const float whole = (x + 12582912.f) - 12582912.f; /* 1.5 * 2^23, which leaves no fraction */
    const float t = (x - whole) * 0.693147181f;
    /* the exponential series: its eighth term is below 6e-9 */
    const float series = 1 + t * (1 + t * (1 / 2.f + t * (1 / 6.f + t * (1 / 24.f
        + t * (1 / 120.f + t * (1 / 720.f + t * (1 / 5040.f)))))));
    const int32_t bits = ((int32_t)whole + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return power * series;
}

static inline float sigmoid(float x)
{
    return 1 / (1 + power_of_2(-LOG2_E * x));
}

static inline float silu(float x)
{
    return x * sigmoid(x);
}

/* The slope of SiLU at x, whose sigmoid is given. */
static inline float slope_of_silu(float x, float sigmoid_of_x)
{
    return sigmoid_of_x * (1 + x * (1 - sigmoid_of_x));
}

/* log(1 + exp(x)) */
static inline float softplus(float x)
{
    const float small = power_of_2(-LOG2_E * (x > 0 ? x : -x));
    /* log(1 + small) = 2 artanh(small / (2 + small)): the series' eighth term is below 5e-9 */
    const float ratio = small / (2 + small), square = ratio * ratio;
    const float series = 1 + square * (1 / 3.f + square * (1 / 5.f + square * (1 / 7.f
        + square * (1 / 9.f + square * (1 / 11.f + square * (1 / 13.f))))));
    return (x > 0 ? x : 0) + 2 * ratio * series;
}
