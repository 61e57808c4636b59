/* The selective scan on CPUs: `core.py` states the op, `chunked.py` the same sums in PyTorch.
 *
 * Vectors run over channels; a step's states are N of them. A task walks along some rows of the
 * batch for a part of the channels; what several tasks add to is written as one share for each
 * task, and neither rows nor parts depend on the number of threads, so no bit does.
 */

#ifdef _OPENMP
#include <omp.h>
#endif
#include "../quasiseparable/native_vectors.h"

enum { Q = 64, PART = 256, MAX = 64 }; /* steps of a chunk, channels of a part, largest N */

/* Rows of values; strides in values, the last axis contiguous. */
typedef struct {
    const value *at;
    int64_t batch, position;
} View;

/* Filled in by native.py; every field has 8 bytes. */
typedef struct {
    int64_t batch, length, dim, N, groups, reverse, threads;
    View u, dy, B, C;
    const float *dt, *A, *D; /* [batch, length, dim], A / ln 2 as [N, dim], [dim] or 0 */
    float *states; /* [batch, chunks - 1, N, dim] */
    value *out; /* y or du, [batch, length, dim]; the others in the backward pass alone */
    float *ddt, *dB, *dC, *dA, *dD; /* dB, dC [batch, parts, length, N], dA [groups, N, dim] */
    struct Work *work; /* one a thread */
} Problem;

typedef struct Work {
    float carried[PART * MAX]; /* by block of channels: [N, LANES] */
    float b[Q * MAX], c[Q * MAX]; /* [Q, N] */
    float decay[Q * MAX * LANES], before[Q * MAX * LANES]; /* [Q, N, LANES] */
    float db[Q * MAX * LANES], dc[Q * MAX * LANES], turned[Q * MAX * LANES];
} __attribute__((aligned(64))) Work;

/* A chunk of a row: its steps, the first of which is step `start` of the walk. */
typedef struct {
    int64_t row, index, start;
    int length;
} Chunk;

static int64_t chunks(const Problem *p) { return (p->length + Q - 1) / Q; }
static int64_t parts(const Problem *p) { return (p->dim + PART - 1) / PART; }

static Chunk chunk_of(const Problem *p, int64_t row, int64_t index) {
    int64_t left = p->length - index * Q;
    return (Chunk){row, index, index * Q, left < Q ? (int)left : Q};
}

INLINE int64_t position(const Problem *p, const Chunk *k, int t) {
    return p->reverse ? p->length - 1 - (k->start + t) : k->start + t;
}
INLINE const value *row_of(const Problem *p, View v, const Chunk *k, int t) {
    return v.at + k->row * v.batch + position(p, k, t) * v.position;
}
/* Where a row of a contiguous [batch, length, dim] begins. */
INLINE int64_t offset(const Problem *p, const Chunk *k, int t) {
    return (k->row * p->length + position(p, k, t)) * p->dim;
}
/* The state that enters chunk `index`, which is not the first. */
static float *kept(const Problem *p, int64_t row, int64_t index) {
    return p->states + (row * (chunks(p) - 1) + index - 1) * p->N * p->dim;
}

/* 2^x to 1e-7 of itself for x from -126 to 0; below that nearly 0. Cephes' polynomial. */
INLINE vf exp2_of(vf x) {
#if defined(__AVX512F__)
    vf n = (vf)_mm512_roundscale_ps((__m512)x, 0), r = x - n;
#else
    const vf low = (vf){0} - 126.0f, magic = (vf){0} + 12582912.0f;
    x = either(low, x, (vw)(x < low));
    vf n = x + magic; /* leaves the integer in the low bits */
    vw power = ((vw)n - (vw)magic) << 23;
    vf r = x - (n - magic);
#endif
    vf y = r * 1.535336188e-4f + 1.339887441e-3f;
    y = y * r + 9.618437357e-3f;
    y = y * r + 5.550332471e-2f;
    y = y * r + 2.402264791e-1f;
    y = y * r + 6.931472028e-1f;
    y = y * r + 1.0f;
#if defined(__AVX512F__)
    return (vf)_mm512_scalef_ps((__m512)y, (__m512)n);
#else
    return (vf)((vw)y + power);
#endif
}

static void load_shared(const Problem *p, float *to, View v, const Chunk *k) {
    for (int t = 0; t < k->length; t++, to += p->N) {
        const value *from = row_of(p, v, k, t);
        for (int n = 0; n < p->N; n++) {
#if BF16
            word bits = (word)from[n] << 16;
            memcpy(to + n, &bits, sizeof bits);
#else
            to[n] = from[n];
#endif
        }
    }
}

/* ---- forward ---- */

static void forward_block(const Problem *p, Work *w, float *state, const Chunk *k, int64_t d) {
    int N = (int)p->N;
    vf skip = p->D ? load(p->D + d) : (vf){0};
    for (int t = 0; t < k->length; t++) {
        int64_t at = offset(p, k, t) + d;
        vf dt = load(p->dt + at), u = widen(row_of(p, p->u, k, t) + d);
        vf input = dt * u, y = skip * u;
        const float *b = w->b + t * N, *c = w->c + t * N;
        for (int n = 0; n < N; n++) {
            vf h = load(state + n * LANES) * exp2_of(dt * load(p->A + n * p->dim + d));
            h += input * b[n];
            y += h * c[n];
            store(state + n * LANES, h);
        }
        narrow(p->out + at, y);
    }
}

static void forward_row(const Problem *p, Work *w, int64_t row, int64_t first, int64_t stop) {
    int64_t N = p->N;
    memset(w->carried, 0, sizeof(float) * (stop - first) * N);
    for (int64_t index = 0; index < chunks(p); index++) {
        Chunk k = chunk_of(p, row, index);
        load_shared(p, w->b, p->B, &k);
        load_shared(p, w->c, p->C, &k);
        for (int64_t d = first; d < stop; d += LANES) {
            float *state = w->carried + (d - first) * N;
            for (int64_t n = 0; index && n < N; n++)
                store(kept(p, row, index) + n * p->dim + d, load(state + n * LANES));
            forward_block(p, w, state, &k, d);
        }
    }
}

/* ---- backward ---- */

/* The decays of each step, and the state that has decayed but not yet taken in. */
static void load_states(const Problem *p, Work *w, const Chunk *k, int64_t d) {
    int N = (int)p->N;
    float state[MAX * LANES];
    for (int n = 0; n < N; n++) {
        vf entering = {0};
        if (k->index) entering = load(kept(p, k->row, k->index) + n * p->dim + d);
        store(state + n * LANES, entering);
    }
    for (int t = 0; t < k->length; t++) {
        vf dt = load(p->dt + offset(p, k, t) + d);
        vf input = dt * widen(row_of(p, p->u, k, t) + d);
        float *decays = w->decay + t * N * LANES, *before = w->before + t * N * LANES;
        for (int n = 0; n < N; n++) {
            vf decay = exp2_of(dt * load(p->A + n * p->dim + d));
            vf h = load(state + n * LANES) * decay;
            store(decays + n * LANES, decay);
            store(before + n * LANES, h);
            store(state + n * LANES, h + input * w->b[t * N + n]);
        }
    }
}

/* `gradient` is that of the state, decayed into the step before; dA and dD are added to. */
static void backward_block(const Problem *p, Work *w, float *gradient, float *dA, float *dD,
                           const Chunk *k, int64_t d) {
    int N = (int)p->N;
    vf skip = p->D ? load(p->D + d) : (vf){0}, d_skip = {0};
    load_states(p, w, k, d);
    for (int t = k->length - 1; t >= 0; t--) {
        int64_t at = offset(p, k, t) + d;
        vf dt = load(p->dt + at), u = widen(row_of(p, p->u, k, t) + d), input = dt * u;
        vf dy = widen(row_of(p, p->dy, k, t) + d), d_input = {0}, d_exponent = {0};
        const float *b = w->b + t * N, *c = w->c + t * N;
        for (int n = 0; n < N; n++) {
            int lanes = n * LANES, step = t * N * LANES + lanes;
            vf g = load(gradient + lanes) + dy * c[n], before = load(w->before + step);
            store(w->dc + step, load(w->dc + step) + dy * (before + input * b[n]));
            store(w->db + step, load(w->db + step) + g * input);
            d_input += g * b[n];
            vf d_log = g * before;
            d_exponent += d_log * load(p->A + n * p->dim + d);
            store(dA + n * p->dim + d, load(dA + n * p->dim + d) + d_log * dt);
            store(gradient + lanes, g * load(w->decay + step));
        }
        d_skip += dy * u;
        narrow(p->out + at, d_input * dt + skip * dy);
        store(p->ddt + at, d_input * u + d_exponent * 0.693147181f);
    }
    if (dD) store(dD + d, load(dD + d) + d_skip);
}

/* Entries of a chunk's B or C, up to a multiple of LANES. */
static int shared_size(const Problem *p, const Chunk *k) {
    return (k->length * (int)p->N + LANES - 1) / LANES * LANES;
}

/* Sums over lanes, to rows [length, N] of a share of dB or dC. */
static void store_shared(const Problem *p, Work *w, float *to, float *from, const Chunk *k) {
    int size = shared_size(p, k);
    transpose((word *)w->turned, (word *)from, size, LANES);
    for (int i = 0; i < size; i += LANES) {
        vf sum = {0};
        for (int lane = 0; lane < LANES; lane++) sum += load(w->turned + lane * size + i);
        store(from + i, sum);
    }
    for (int t = 0; t < k->length; t++)
        memcpy(to + position(p, k, t) * p->N, from + t * p->N, sizeof(float) * p->N);
}

static void backward_row(const Problem *p, Work *w, float *dA, float *dD, int64_t row,
                         int64_t first, int64_t stop) {
    int64_t N = p->N, share = (row * parts(p) + first / PART) * p->length * N;
    memset(w->carried, 0, sizeof(float) * (stop - first) * N);
    for (int64_t index = chunks(p) - 1; index >= 0; index--) {
        Chunk k = chunk_of(p, row, index);
        load_shared(p, w->b, p->B, &k);
        load_shared(p, w->c, p->C, &k);
        memset(w->db, 0, sizeof(float) * shared_size(p, &k) * LANES);
        memset(w->dc, 0, sizeof(float) * shared_size(p, &k) * LANES);
        for (int64_t d = first; d < stop; d += LANES)
            backward_block(p, w, w->carried + (d - first) * N, dA, dD, &k, d);
        store_shared(p, w, p->dB + share, w->db, &k);
        store_shared(p, w, p->dC + share, w->dc, &k);
    }
}

/* ---- tasks ---- */

static Work *own_work(const Problem *p) {
#ifdef _OPENMP
    return p->work + omp_get_thread_num();
#else
    return p->work;
#endif
}

/* A part of the channels for the rows of a group. */
static void run_task(const Problem *p, int64_t group, int64_t part, int is_backward) {
    int64_t first = part * PART, stop = first + PART < p->dim ? first + PART : p->dim;
    int64_t row = group * p->batch / p->groups, end = (group + 1) * p->batch / p->groups;
    size_t bytes = sizeof(float) * (stop - first);
    float *dA = p->dA + group * p->N * p->dim, *dD = p->dD ? p->dD + group * p->dim : 0;
    for (int64_t n = 0; is_backward && n < p->N; n++) memset(dA + n * p->dim + first, 0, bytes);
    if (dD) memset(dD + first, 0, bytes);
    for (; row < end; row++)
        if (is_backward)
            backward_row(p, own_work(p), dA, dD, row, first, stop);
        else
            forward_row(p, own_work(p), row, first, stop);
}

static void run(const Problem *p, int is_backward) {
#pragma omp parallel num_threads((int)p->threads)
    {
#ifdef __SSE2__
        unsigned mode = _mm_getcsr(); /* states decay through denormals, which are slow */
        _mm_setcsr(mode | 0x8040);
#endif
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < p->groups * parts(p); task++)
            run_task(p, task / parts(p), task % parts(p), is_backward);
#ifdef __SSE2__
        _mm_setcsr(mode);
#endif
    }
}

int64_t work_bytes(void) { return sizeof(Work); }
void forward(const Problem *p) { run(p, 0); }
void backward(const Problem *p) { run(p, 1); }
