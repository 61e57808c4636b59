/* Vectors of the width at hand, products of small matrices, and the layouts these take.
 *
 * BF16 (0 or 1) is the dtype of values. Products take their operands as words: one float32, or two
 * bfloat16 that are neighbours along the summed axis. Rows and columns are multiples of 16.
 */

#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

/* COLUMNS vectors of ROWS rows are summed in registers at once. */
#if defined(__AVX512F__)
enum { LANES = 16, COLUMNS = 4 };
#elif defined(__AVX__)
enum { LANES = 8, COLUMNS = 2 };
#elif defined(__aarch64__)
enum { LANES = 4, COLUMNS = 4 };
#else
enum { LANES = 4, COLUMNS = 2 };
#endif
enum { ROWS = 4 };

typedef uint32_t word;
typedef float vf __attribute__((vector_size(4 * LANES)));
typedef word vw __attribute__((vector_size(4 * LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES)));
typedef word v4 __attribute__((vector_size(16)));

#if BF16
typedef uint16_t value;
enum { PAIR = 2 };
#else
typedef float value;
enum { PAIR = 1 };
#endif

INLINE vf load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE vw load_words(const word *p) {
    vw v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void store(float *p, vf v) { memcpy(p, &v, sizeof v); }
INLINE void store_words(word *p, vw v) { memcpy(p, &v, sizeof v); }
INLINE vf masked(vf v, vw mask) { return (vf)((vw)v & mask); }
INLINE vf either(vf v, vf other, vw mask) { return (vf)(((vw)v & mask) | ((vw)other & ~mask)); }

/* ---- values ---- */

/* bfloat16 in the upper halves, to nearest even; NaN stays NaN. */
INLINE vw rounded(vf v) {
    vw bits = (vw)v, nan = (vw)(v != v);
    bits += 0x7fff + ((bits >> 16) & 1);
    return (bits & ~nan) | (nan & 0x7fc00000);
}

INLINE vf widen(const value *p) {
#if BF16
    vh v;
    memcpy(&v, p, sizeof v);
#ifdef __AVX512F__
    return (vf)((vw)_mm512_cvtepu16_epi32((__m256i)v) << 16);
#else
    return (vf)(__builtin_convertvector(v, vw) << 16);
#endif
#else
    return load(p);
#endif
}

INLINE void narrow(value *p, vf v) {
#if BF16 && defined(__AVX512BF16__)
    __m256bh h = _mm512_cvtneps_pbh((__m512)v);
    memcpy(p, &h, sizeof h);
#elif BF16
    vh h = __builtin_convertvector(rounded(v) >> 16, vh);
    memcpy(p, &h, sizeof h);
#else
    store(p, v);
#endif
}

/* Words of values that follow each other along the summed axis; a float32 stands alone. */
INLINE vw pack(vf first, vf second) {
#if BF16 && defined(__AVX512BF16__)
    __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)first));
    __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)second));
    return (vw)low | ((vw)high << 16);
#elif BF16
    return (rounded(first) >> 16) | (rounded(second) & 0xffff0000);
#else
    (void)second;
    return (vw)first;
#endif
}

INLINE vf dot(vf sum, vw a, vw b) {
#if BF16 && defined(__AVX512BF16__)
    return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#elif BF16
    sum += (vf)(a << 16) * (vf)(b << 16);
    return sum + (vf)(a & 0xffff0000) * (vf)(b & 0xffff0000);
#else
    return sum + (vf)a * (vf)b;
#endif
}

/* To 1e-7 of itself for x from -87 to 88; below that the value at -87. Cephes' polynomial. */
INLINE vf exponential(vf x) {
    const vf low = (vf){0} - 87.0f, magic = (vf){0} + 12582912.0f;
    x = either(low, x, (vw)(x < low));
    vf n = x * 1.44269504f + magic; /* leaves the integer in the low bits */
    vw power = ((vw)n - (vw)magic) << 23;
    n -= magic;
    vf r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    vf y = r * 1.98756915e-4f + 1.39819995e-3f;
    y = y * r + 8.33345191e-3f;
    y = y * r + 4.16657960e-2f;
    y = y * r + 1.66666655e-1f;
    y = y * r + 0.5f;
    y = y * r * r + r + 1.0f;
    return (vf)((vw)y + power);
}

/* ---- products ---- */

/* Hold a vector in its register, where gcc would load it again for each use. */
#if defined(__AVX512F__)
#define KEEP(v) __asm__("" : "+v"(v))
#elif defined(__SSE2__)
#define KEEP(v) __asm__("" : "+x"(v))
#else
#define KEEP(v) (void)(v)
#endif

/* ROWS rows of `product`, `columns` vectors wide. */
INLINE void tile(int columns, float *out, const word *a, const word *b, int n, int k,
                 const float *scale, float keep) {
    vf sums[ROWS][4] = {0};
    for (int t = 0; t < k; t++) {
        vw right[4];
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++) {
            right[c] = load_words(b + t * n + c * LANES);
            KEEP(right[c]);
        }
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++) {
            vw left = (vw){0} + a[r * k + t];
#pragma GCC unroll 4
            for (int c = 0; c < columns; c++) sums[r][c] = dot(sums[r][c], left, right[c]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++) {
        float factor = scale ? scale[r] : 1;
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++) {
            float *p = out + r * n + c * LANES;
            vf old = keep == 0 ? (vf){0} : load(p) * keep;
            store(p, sums[r][c] * factor + old);
        }
    }
}

/* Out of line, or gcc runs out of registers. */
#define TILE(columns)                                                                       \
    __attribute__((noinline)) static void tile_##columns(                                   \
        float *out, const word *a, const word *b, int n, int k, const float *scale, float keep) { \
        tile(columns, out, a, b, n, k, scale, keep);                                        \
    }
TILE(1)
TILE(2)
TILE(4)

/* out[m, n] = keep out + scale[m] (a[m, k] b[k, n]), k in words. Without `scale` it is 1; where
 * `keep` is 0, out need not be initialised. */
static void product(float *out, const word *a, const word *b, int m, int n, int k,
                    const float *scale, float keep) {
    for (int column = 0, width; column < n; column += width * LANES) {
        int left = (n - column) / LANES;
        width = left >= COLUMNS ? COLUMNS : left >= 2 ? 2 : 1;
        void (*tiles)(float *, const word *, const word *, int, int, const float *, float) =
            width == 4 ? tile_4 : width == 2 ? tile_2 : tile_1;
        for (int i = 0; i < m; i += ROWS)
            tiles(out + i * n + column, a + i * k, b + column, n, k, scale ? scale + i : 0, keep);
    }
}

/* ---- layouts ---- */

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, (v4){i, j, k, l})
#endif

/* to[columns, rows] from words[rows, columns]. */
static void transpose(word *to, const word *from, int rows, int columns) {
    for (int i = 0; i < rows; i += 4)
        for (int j = 0; j < columns; j += 4) {
            v4 in[4], out[4];
            for (int r = 0; r < 4; r++) memcpy(&in[r], from + (i + r) * columns + j, sizeof in[r]);
            v4 low = SHUFFLE(in[0], in[1], 0, 4, 1, 5), high = SHUFFLE(in[0], in[1], 2, 6, 3, 7);
            v4 low2 = SHUFFLE(in[2], in[3], 0, 4, 1, 5), high2 = SHUFFLE(in[2], in[3], 2, 6, 3, 7);
            out[0] = SHUFFLE(low, low2, 0, 1, 4, 5), out[1] = SHUFFLE(low, low2, 2, 3, 6, 7);
            out[2] = SHUFFLE(high, high2, 0, 1, 4, 5), out[3] = SHUFFLE(high, high2, 2, 3, 6, 7);
            for (int r = 0; r < 4; r++) memcpy(to + (j + r) * rows + i, &out[r], sizeof out[r]);
        }
}

/* Rows of values, `stride` apart; `next` values on lie those that are wanted soon. */
typedef struct {
    const value *at;
    int64_t stride, next;
} Rows;

INLINE void prefetch(const void *p, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)p + i, 0);
}
INLINE void prefetch_to_write(void *p, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch((char *)p + i, 1);
}

/* words[rows / PAIR, columns], paired along the rows. */
static void interleave(word *to, Rows from, int rows, int columns) {
    for (int i = 0; i < rows; i += PAIR, to += columns) {
        const value *first = from.at + i * from.stride;
        prefetch(first + from.next, sizeof(value) * columns);
#if BF16
        const value *second = first + from.stride;
        value *half = (value *)to;
        prefetch(second + from.next, sizeof(value) * columns);
        for (int j = 0; j < columns; j++) half[2 * j] = first[j], half[2 * j + 1] = second[j];
#else
        memcpy(to, first, sizeof(word) * columns);
#endif
    }
}

/* The same of rows times a weight each. */
static void interleave_weighted(word *to, Rows from, const float *weight, int rows, int columns) {
    for (int i = 0; i < rows; i += PAIR, to += columns) {
        int last = i + PAIR - 1;
        const value *first = from.at + i * from.stride, *second = from.at + last * from.stride;
        prefetch(first + from.next, sizeof(value) * columns);
        prefetch(second + from.next, sizeof(value) * columns);
        for (int j = 0; j < columns; j += LANES)
            store_words(to + j,
                        pack(widen(first + j) * weight[i], widen(second + j) * weight[last]));
    }
}

/* words[columns, rows / PAIR], paired along the rows. */
static void turn(word *to, word *spare, Rows from, int rows, int columns) {
    interleave(spare, from, rows, columns);
    transpose(to, spare, rows / PAIR, columns);
}
