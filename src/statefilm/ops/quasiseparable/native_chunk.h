/* A chunk of the quasiseparable core: the problem it is part of, and what is read for it.
 *
 * Way 0 reads what lies before a position, way 1 what lies after it. N is the size of a state, P
 * that of a head, q the positions of a chunk up to a multiple of 16.
 */

#include "native_vectors.h"

enum { Q = 64, MAX = 128 }; /* MAX: of N and P */

/* Rows of N or P values; strides in values, the last axis contiguous. */
typedef struct {
    const value *at;
    int64_t batch, position, head;
} View;

enum { FROM_LEFT, FROM_RIGHT, GRADIENT_RIGHT, GRADIENT_LEFT, STATES };

/* Filled in by native.py up to `scratch`; every field has 8 bytes. */
typedef struct {
    int64_t batch, length, heads, groups, N, P, threads;
    View x, dy, B[2], C[2]; /* of B and C a group is a head */
    const float *dt, *a, *D; /* [batch, length, 2, heads], D [batch, length, heads] or 0 */
    value *out, *dB, *dC; /* y or dx, contiguous; the others in the backward pass alone */
    float *ddt, *da, *dD;
    char *scratch;
    /* Chunks between two meetings of the threads: few, to find x and states in the cache again. */
    int64_t window;
    value *states[STATES]; /* that enter chunks: [batch, slots, heads, N, P] */
    float *carried[STATES]; /* [batch, heads, N, P] */
    struct Work *work; /* one a thread */
} Problem;

typedef struct {
    int64_t start;
    int length, q;
} Span;

/* One direction of a head in a chunk: products of gains, `read` from where the chunk is entered to
 * a reader, `emit` from a source to where the chunk is left, `total` through it. */
typedef struct {
    const float *gain, *dt, *read, *emit;
    float total;
} Steps;

typedef struct {
    float gain[LANES * Q], dt[LANES * Q], read[LANES * Q], emit[LANES * Q], total[LANES];
} StepsOfHeads;

typedef struct Work {
    word b[2][Q * MAX], c[2][Q * MAX]; /* rows [q, N] of sources and readers */
    word bt[2][Q * MAX], ct[2][Q * MAX]; /* the same as [N, q] */
    word x[Q * MAX], dy[Q * MAX]; /* rows [q, P] */
    word xt[Q * MAX], dyt[Q * MAX]; /* their words as [P / PAIR, q] */
    word right[MAX * MAX], spare[Q * MAX], matrix[Q * Q];
    float scores[Q * Q], decay[Q * Q], d_matrix[Q * Q], d_scores[Q * Q];
    float out[Q * MAX], through[MAX * Q], dbt[2][MAX * Q], dct[2][MAX * Q];
    float given[2][Q * LANES], lanes[4][Q * LANES];
    StepsOfHeads steps[2];
} __attribute__((aligned(64))) Work;

static int64_t chunks(const Problem *p) { return (p->length + Q - 1) / Q; }

static Span span(const Problem *p, int64_t chunk) {
    int64_t left = p->length - chunk * Q;
    int length = left < Q ? (int)left : Q;
    return (Span){chunk * Q, length, (length + 15) & ~15};
}

static int is_reverse(int which) { return which == FROM_RIGHT || which == GRADIENT_RIGHT; }

/* Those from the right are all there before the first is read, the others a window at a time. */
static int64_t slots(const Problem *p, int which) {
    return is_reverse(which) ? chunks(p) : p->window;
}

static value *state(const Problem *p, int which, int64_t b, int64_t chunk, int64_t h) {
    int64_t count = slots(p, which);
    return p->states[which] + ((b * count + chunk % count) * p->heads + h) * p->N * p->P;
}

static Rows state_rows(const Problem *p, int which, int64_t b, int64_t chunk, int64_t h) {
    return (Rows){state(p, which, b, chunk, h), p->P, p->N * p->P};
}

/* ---- reading a chunk ---- */

/* Copy rows, read `shift` positions on; zeros beyond the chunk's or the sequence's end. */
static Rows load_rows(word *to, const Problem *p, View v, int64_t b, int64_t h, Span s, int shift,
                      int columns) {
    const value *from = v.at + b * v.batch + h * v.head + (s.start + shift) * v.position;
    for (int i = 0; i < s.q; i++, from += v.position) {
        value *row = (value *)to + i * columns;
        int64_t at = s.start + i + shift;
        if (i >= s.length || at < 0 || at >= p->length) {
            memset(row, 0, sizeof(value) * columns);
            continue;
        }
        prefetch(from + v.head, sizeof(value) * columns);
        for (int j = 0; j < columns; j += LANES) memcpy(row + j, from + j, sizeof(value) * LANES);
    }
    return (Rows){(value *)to, columns, 0};
}

/* Rows where they lie, or a copy if zeros have to be added. */
static Rows find_rows(word *spare, const Problem *p, View v, int64_t b, int64_t h, Span s,
                      int columns) {
    if (s.length < s.q) return load_rows(spare, p, v, b, h, s, 0, columns);
    const value *at = v.at + b * v.batch + h * v.head + s.start * v.position;
    return (Rows){at, v.position, v.head};
}

/* Steps of the LANES heads (as far as they exist) from `head` on. */
static void load_steps_of_heads(const Problem *p, Work *w, int64_t b, int64_t head, Span s,
                                int way) {
    float *dt = w->lanes[0], *gain = w->lanes[1], *before = w->lanes[2], *after = w->lanes[3];
    int64_t count = p->heads - head < LANES ? p->heads - head : LANES;
    for (int i = 0; i < s.q; i++) {
        float a[LANES] = {0};
        memset(dt + i * LANES, 0, sizeof a);
        if (i < s.length) {
            int64_t at = ((b * p->length + s.start + i) * 2 + way) * p->heads + head;
            memcpy(dt + i * LANES, p->dt + at, sizeof(float) * count);
            memcpy(a, p->a + at, sizeof(float) * count);
        }
        store(gain + i * LANES, exponential(load(a)));
    }
    vf forth = (vf){0} + 1, back = forth;
    for (int i = 0, j = s.q - 1; j >= 0; i++, j--) {
        store(before + i * LANES, forth), forth *= load(gain + i * LANES);
        store(after + j * LANES, back), back *= load(gain + j * LANES);
    }
    StepsOfHeads *to = &w->steps[way];
    store(to->total, forth);
    transpose((word *)to->dt, (word *)dt, s.q, LANES);
    transpose((word *)to->gain, (word *)gain, s.q, LANES);
    transpose((word *)(way ? to->emit : to->read), (word *)before, s.q, LANES);
    transpose((word *)(way ? to->read : to->emit), (word *)after, s.q, LANES);
}

/* Those of a head; the heads of a task come in order, `first` first. */
static Steps load_steps(const Problem *p, Work *w, int64_t b, int64_t first, int64_t h, Span s,
                        int way) {
    int lane = (int)(h - first) % LANES, at = lane * s.q;
    if (lane == 0) load_steps_of_heads(p, w, b, h, s, way);
    const StepsOfHeads *f = &w->steps[way];
    return (Steps){f->gain + at, f->dt + at, f->read + at, f->emit + at, f->total[lane]};
}

/* Windows into these are a row of the unit matrix and one of a strictly lower triangle. */
static const float UNIT[2 * Q + 1] = {[Q] = 1}, ONES[Q] = {[0 ... Q - 1] = 1};
static const word LOWER[2 * Q] = {[0 ... Q - 1] = ~(word)0};
INLINE vf unit(int row, int column) { return load(UNIT + Q + column - row); }
INLINE vw lower(int row, int column) { return load_words(LOWER + Q + column - row); }

/* Scores [q, q]: below the diagonal one pair's, on and above it the other's. */
static void load_scores(Work *w, const word *rows_below, const word *columns_below,
                        const word *rows_above, const word *columns_above, int q, int N) {
    float *above = w->d_matrix;
    transpose(w->right, columns_below, q, N / PAIR);
    product(w->scores, rows_below, w->right, q, q, N / PAIR, 0, 0);
    transpose(w->right, columns_above, q, N / PAIR);
    product(above, rows_above, w->right, q, q, N / PAIR, 0, 0);
    for (int i = 0; i < q; i++)
        for (int j = 0; j < q; j += LANES) {
            float *at = w->scores + i * q + j;
            store(at, either(load(at), load(above + i * q + j), lower(i, j)));
        }
}

/* Decay between two positions times the column's weight, [q, q]: below the diagonal of one
 * direction, above it of the other, zeros on it. Row by row the gains in between are multiplied:
 * no exponential of a difference, so nothing cancels. */
static void load_decay(float *decay, const Steps *below, const Steps *above,
                       const float *weight_below, const float *weight_above, int q) {
    enum { BLOCKS = Q / LANES };
    vf row[BLOCKS] = {0};
    for (int i = 0; i < q; i++)
        for (int c = 0; c < BLOCKS; c++) {
            vf new = unit(i - 1, c * LANES);
            if (i) row[c] = row[c] * below->gain[i - 1] + new * weight_below[i - 1];
            if (c * LANES < q) store(decay + i * q + c * LANES, row[c]);
        }
    memset(row, 0, sizeof row);
    for (int i = q - 1; i >= 0; i--)
        for (int c = 0; c < BLOCKS; c++) {
            float *at = decay + i * q + c * LANES;
            vf new = unit(i + 1, c * LANES);
            if (i < q - 1) row[c] = row[c] * above->gain[i + 1] + new * weight_above[i + 1];
            if (c * LANES < q && (c + 1) * LANES > i) store(at, load(at) + row[c]);
        }
}

static void set_diagonal(const Problem *p, Work *w, int64_t b, int64_t h, Span s) {
    for (int i = 0; i < s.q; i++) {
        vf v = {0};
        value lanes[LANES];
        if (p->D && i < s.length) v += p->D[(b * p->length + s.start + i) * p->heads + h];
        narrow(lanes, v);
        ((value *)w->matrix)[i * s.q + i] = lanes[0];
    }
}

static void store_out(const Problem *p, const float *out, int64_t b, int64_t h, Span s) {
    for (int i = 0; i < s.length; i++) {
        value *to = p->out + ((b * p->length + s.start + i) * p->heads + h) * p->P;
        prefetch_to_write(to + p->P, sizeof(value) * p->P); /* the next head's */
        for (int j = 0; j < p->P; j += LANES) narrow(to + j, load(out + i * p->P + j));
    }
}
