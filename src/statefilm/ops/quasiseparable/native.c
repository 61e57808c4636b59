/* The quasiseparable core on CPUs: `core.py` states the op, `chunked.py` the same sums in PyTorch.
 *
 * A chunk of Q positions is one Q x Q matrix per head; between chunks a state of each direction is
 * carried. There are two kinds of tasks: `carry` walks along the sequence for some heads and writes
 * down the states that enter each chunk; then `forward_chunk` or `backward_chunk` does a chunk for
 * all heads of a group. No sum crosses tasks, so results do not depend on the number of threads.
 */

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif
#include "native_chunk.h"

/* ---- states ---- */

/* Write the states that enter the chunks [first, stop), for some heads of a group. */
static void carry(const Problem *p, Work *w, int which, int64_t b, int64_t g, int64_t head,
                  int64_t heads, int64_t first, int64_t stop) {
    int reverse = is_reverse(which), N = (int)p->N, P = (int)p->P;
    int gradient = which == GRADIENT_RIGHT || which == GRADIENT_LEFT;
    int way = which == FROM_RIGHT || which == GRADIENT_LEFT;
    int64_t start = reverse ? chunks(p) - 1 : 0, end = reverse ? 0 : chunks(p) - 1;
    for (int64_t n = first; n < stop; n++) {
        int64_t chunk = reverse ? stop - 1 - (n - first) : n;
        Span s = span(p, chunk);
        if (chunk != end) {
            View v = gradient ? p->C[way] : p->B[way];
            Rows rows = load_rows(w->b[0], p, v, b, g, s, gradient ? 2 * way - 1 : 0, N);
            turn(w->bt[0], w->spare, rows, s.q, N);
        }
        for (int64_t h = head; h < head + heads; h++) {
            float *carried = p->carried[which] + (b * p->heads + h) * N * P, weight[Q];
            value *entering = state(p, which, b, chunk, h);
            for (int i = 0; chunk != start && i < N * P; i += LANES) {
                prefetch_to_write(entering + N * P + i, 1);
                narrow(entering + i, load(carried + i));
            }
            if (chunk == end) continue;
            Steps steps = load_steps(p, w, b, head, h, s, way);
            for (int i = 0; i < s.q; i++)
                weight[i] = gradient ? steps.read[i] : steps.emit[i] * steps.dt[i];
            Rows rows = find_rows(w->x, p, gradient ? p->dy : p->x, b, h, s, P);
            interleave_weighted(w->right, rows, weight, s.q, P);
            float keep = chunk == start ? 0 : steps.total;
            product(carried, w->bt[0], w->right, N, P, s.q / PAIR, 0, keep);
        }
    }
}

/* ---- forward ---- */

static void forward_chunk(const Problem *p, Work *w, int64_t b, int64_t g, int64_t chunk) {
    Span s = span(p, chunk);
    int q = s.q, N = (int)p->N, P = (int)p->P, enters[2] = {chunk > 0, chunk < chunks(p) - 1};
    int64_t heads = p->heads / p->groups;
    for (int way = 0; way < 2; way++) {
        load_rows(w->b[way], p, p->B[way], b, g, s, 0, N);
        load_rows(w->c[way], p, p->C[way], b, g, s, 2 * way - 1, N);
    }
    load_scores(w, w->c[0], w->b[0], w->c[1], w->b[1], q, N);
    for (int64_t h = g * heads; h < (g + 1) * heads; h++) {
        Steps steps[2];
        for (int way = 0; way < 2; way++) steps[way] = load_steps(p, w, b, g * heads, h, s, way);
        load_decay(w->decay, &steps[0], &steps[1], steps[0].dt, steps[1].dt, q);
        for (int i = 0; i < q * q; i += LANES)
            narrow((value *)w->matrix + i, load(w->scores + i) * load(w->decay + i));
        set_diagonal(p, w, b, h, s);
        interleave(w->right, find_rows(w->x, p, p->x, b, h, s, P), q, P);
        product(w->out, w->matrix, w->right, q, P, q / PAIR, 0, 0);
        for (int way = 0; way < 2; way++)
            if (enters[way]) {
                interleave(w->right, state_rows(p, way, b, chunk, h), N, P);
                product(w->out, w->c[way], w->right, q, P, N / PAIR, steps[way].read, 1);
            }
        store_out(p, w->out, b, h, s);
    }
}

/* ---- backward ---- */

/* The chunk's own part, transposed: rows j are sources, columns i readers. Fills the matrix, adds
 * to d_scores, and says what each reader takes and, its dt left out, each source gives. */
static void differentiate(Work *w, const Steps steps[2], int q, float taken[2][Q],
                          float given[2][Q]) {
    const float *dt = steps[0].dt, *dt_r = steps[1].dt;
    for (int i = 0; i < q; i += LANES) {
        vf taken_f = {0}, taken_r = {0};
        for (int j = 0; j < q; j++) {
            int at = j * q + i;
            vw before = lower(j, i); /* where the reader comes before the source */
            vf decay = load(w->decay + at), scores = load(w->scores + at);
            vf decay_f = masked(decay, ~before), decay_r = masked(decay, before);
            vf d_matrix = load(w->d_matrix + at), weight = decay_f * dt[j] + decay_r * dt_r[j];
            narrow((value *)w->matrix + at, weight * scores);
            store(w->d_scores + at, load(w->d_scores + at) + weight * d_matrix);
            vf d_log = scores * d_matrix, moved_f = decay_f * d_log, moved_r = decay_r * d_log;
            taken_f += moved_f * dt[j], taken_r += moved_r * dt_r[j];
            float *to_f = w->given[0] + j * LANES, *to_r = w->given[1] + j * LANES;
            store(to_f, i ? load(to_f) + moved_f : moved_f);
            store(to_r, i ? load(to_r) + moved_r : moved_r);
        }
        store(taken[0] + i, taken_f), store(taken[1] + i, taken_r);
    }
    for (int way = 0; way < 2; way++) {
        float *lanes = w->lanes[0];
        transpose((word *)lanes, (word *)w->given[way], q, LANES);
        for (int j = 0; j < q; j += LANES) {
            vf total = {0};
            for (int k = 0; k < LANES; k++) total += load(lanes + k * q + j);
            store(given[way] + j, total);
        }
    }
}

/* What passes through a state, v[n, i] = factor[i] (state . across)[n, i]: adds weight[i] v to the
 * total [N, q], and returns in `moved` the product of v with other[n, i] at each position. */
static void pass_state(Work *w, const value *state, const word *across, const float *factor,
                       const float *weight, const word *other, float *total, float *moved, int q,
                       int N, int P) {
    enum { BLOCKS = Q / LANES };
    vf sums[BLOCKS] = {0};
    product(w->through, (const word *)state, across, N, q, P / PAIR, 0, 0);
    for (int n = 0; n < N; n++)
        for (int c = 0; c < BLOCKS; c++) {
            int i = c * LANES, at = n * q + i;
            if (i >= q) continue;
            vf v = load(w->through + at) * load(factor + i);
            sums[c] += v * widen((const value *)other + at);
            store(total + at, load(total + at) + v * load(weight + i));
        }
    for (int c = 0; c < q / LANES; c++) store(moved + c * LANES, sums[c]);
}

static float inner_product(const value *a, const value *b, int size) {
    vf sums[4] = {0};
    float total = 0;
    for (int i = 0; i < size; i += 4 * LANES)
        for (int k = 0; k < 4; k++) sums[k] += widen(a + i + k * LANES) * widen(b + i + k * LANES);
    sums[0] += sums[1] + (sums[2] + sums[3]);
    for (int k = 0; k < LANES; k++) total += sums[0][k];
    return total;
}

/* Gradients of the steps of a direction from what readers take and sources give, within the chunk
 * and from and to states. That of the log-decay at t is the sum over all pairs of a source before
 * t and a reader after it, in the direction's sense; only what lies in one chunk is subtracted. */
static void store_steps(const Problem *p, const Steps *steps, int64_t b, int64_t h, Span s, int way,
                        const float *taken, const float *given, const float *from_state,
                        const float *to_state, float through) {
    float inside[Q], pairs = 0, beyond = through;
    for (int n = s.length - 1; n >= 0; n--) {
        int t = way ? s.length - 1 - n : n;
        pairs -= given[t] * steps->dt[t];
        inside[t] = pairs;
        pairs += taken[t] + from_state[t];
    }
    for (int n = 0; n < s.length; n++) {
        int t = way ? s.length - 1 - n : n;
        int64_t at = ((b * p->length + s.start + t) * 2 + way) * p->heads + h;
        p->da[at] = inside[t] + beyond;
        p->ddt[at] = given[t] + to_state[t];
        beyond += to_state[t] * steps->dt[t];
    }
}

static void backward_head(const Problem *p, Work *w, int64_t b, int64_t h, int64_t chunk, Span s) {
    static const int STATE[] = {FROM_LEFT, FROM_RIGHT};
    static const int GRADIENT[] = {GRADIENT_RIGHT, GRADIENT_LEFT};
    int q = s.q, N = (int)p->N, P = (int)p->P, enters[2] = {chunk > 0, chunk < chunks(p) - 1};
    int64_t in_group = p->heads / p->groups;
    float taken[2][Q], given[2][Q], weight[Q];
    Steps steps[2];
    for (int way = 0; way < 2; way++)
        steps[way] = load_steps(p, w, b, h / in_group * in_group, h, s, way);
    load_decay(w->decay, &steps[1], &steps[0], ONES, ONES, q);
    load_rows(w->x, p, p->x, b, h, s, 0, P);
    Rows dy = load_rows(w->dy, p, p->dy, b, h, s, 0, P);
    transpose(w->xt, w->x, q, P / PAIR);
    transpose(w->dyt, w->dy, q, P / PAIR);
    product(w->d_matrix, w->x, w->dyt, q, q, P / PAIR, 0, 0);
    differentiate(w, steps, q, taken, given);
    set_diagonal(p, w, b, h, s);
    for (int i = 0; p->dD && i < s.length; i++)
        p->dD[(b * p->length + s.start + i) * p->heads + h] = w->d_matrix[i * q + i];
    interleave(w->right, dy, q, P);
    product(w->out, w->matrix, w->right, q, P, q / PAIR, 0, 0);
    for (int way = 0; way < 2; way++) {
        const Steps *o = &steps[way];
        const word *bt = w->bt[way], *ct = w->ct[way];
        const value *entering = state(p, STATE[way], b, chunk, h);
        const value *gradient = state(p, GRADIENT[way], b, chunk, h);
        float from_state[Q] = {0}, to_state[Q] = {0}, through = 0;
        if (enters[way])
            pass_state(w, entering, w->dyt, o->read, ONES, ct, w->dct[way], from_state, q, N, P);
        if (enters[!way]) {
            pass_state(w, gradient, w->xt, o->emit, o->dt, bt, w->dbt[way], to_state, q, N, P);
            for (int i = 0; i < q; i++) weight[i] = o->emit[i] * o->dt[i];
            interleave(w->right, state_rows(p, GRADIENT[way], b, chunk, h), N, P);
            product(w->out, w->b[way], w->right, q, P, N / PAIR, weight, 1);
        }
        if (enters[0] && enters[1]) through = o->total * inner_product(entering, gradient, N * P);
        store_steps(p, o, b, h, s, way, taken[way], given[way], from_state, to_state, through);
    }
    store_out(p, w->out, b, h, s);
}

/* Values [batch, length, 2, groups, N] from a sum [N, q]; `shift` as in load_rows. */
static void store_turned(const Problem *p, value *to, const float *from, int64_t b, int64_t g,
                         Span s, int way, int shift) {
    for (int i = 0; i < s.length; i++) {
        int64_t at = s.start + i + shift;
        if (at < 0 || at >= p->length) continue;
        value *row = to + (((b * p->length + at) * 2 + way) * p->groups + g) * p->N;
        for (int n = 0; n < p->N; n += LANES) {
            float lanes[LANES];
            for (int k = 0; k < LANES; k++) lanes[k] = from[(n + k) * s.q + i];
            narrow(row + n, load(lanes));
        }
    }
}

static void backward_chunk(const Problem *p, Work *w, int64_t b, int64_t g, int64_t chunk) {
    Span s = span(p, chunk);
    int q = s.q, N = (int)p->N;
    int64_t heads = p->heads / p->groups;
    for (int way = 0; way < 2; way++) {
        Rows sources = load_rows(w->b[way], p, p->B[way], b, g, s, 0, N);
        Rows readers = load_rows(w->c[way], p, p->C[way], b, g, s, 2 * way - 1, N);
        turn(w->bt[way], w->spare, sources, q, N);
        turn(w->ct[way], w->spare, readers, q, N);
    }
    load_scores(w, w->b[1], w->c[1], w->b[0], w->c[0], q, N);
    memset(w->d_scores, 0, sizeof w->d_scores);
    memset(w->dbt, 0, sizeof w->dbt);
    memset(w->dct, 0, sizeof w->dct);
    for (int64_t h = g * heads; h < (g + 1) * heads; h++) backward_head(p, w, b, h, chunk, s);
    for (int way = 0; way < 2; way++) {
        value *d_scores = (value *)w->matrix;
        for (int j = 0; j < q; j++)
            for (int i = 0; i < q; i += LANES) {
                vw mask = way ? lower(j, i) : ~lower(j + 1, i);
                narrow(d_scores + j * q + i, masked(load(w->d_scores + j * q + i), mask));
            }
        interleave(w->right, (Rows){d_scores, q, 0}, q, q);
        product(w->dct[way], w->bt[way], w->right, N, q, q / PAIR, 0, 1);
        transpose(w->right, w->matrix, q, q / PAIR);
        product(w->dbt[way], w->ct[way], w->right, N, q, q / PAIR, 0, 1);
        store_turned(p, p->dB, w->dbt[way], b, g, s, way, 0);
        store_turned(p, p->dC, w->dct[way], b, g, s, way, 2 * way - 1);
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

/* States of the kinds `which` for all heads, in enough tasks to keep the threads busy. */
static void carry_all(const Problem *p, int kinds, const int *which, int64_t first, int64_t stop) {
    int64_t in_group = p->heads / p->groups, heads = in_group;
    while (heads % 2 == 0 && kinds * p->batch * p->heads / heads < p->threads) heads /= 2;
    int64_t parts = p->heads / heads, tasks = kinds * p->batch * parts;
#pragma omp for schedule(dynamic)
    for (int64_t t = 0; t < tasks; t++) {
        int64_t kind = t / parts / p->batch, b = t / parts % p->batch, head = t % parts * heads;
        carry(p, own_work(p), which[kind], b, head / in_group, head, heads, first, stop);
    }
}

typedef void ChunkTask(const Problem *, Work *, int64_t, int64_t, int64_t);

static void run(const Problem *p, int kinds, ChunkTask *task) {
    static const int LEFTWARDS[] = {FROM_RIGHT, GRADIENT_RIGHT};
    static const int RIGHTWARDS[] = {FROM_LEFT, GRADIENT_LEFT};
    int64_t all = chunks(p);
#pragma omp parallel num_threads((int)p->threads)
    {
#ifdef __SSE2__
        unsigned mode = _mm_getcsr(); /* decays vanish through denormals, which are slow */
        _mm_setcsr(mode | 0x8040);
#endif
        if (all > 1) carry_all(p, kinds, LEFTWARDS, 0, all);
        for (int64_t first = 0; first < all; first += p->window) {
            int64_t stop = first + p->window < all ? first + p->window : all;
            int64_t sequences = p->batch * p->groups, tasks = (stop - first) * sequences;
            if (all > 1) carry_all(p, kinds, RIGHTWARDS, first, stop);
#pragma omp for schedule(dynamic)
            for (int64_t t = 0; t < tasks; t++) {
                int64_t b = t % sequences / p->groups, g = t % p->groups;
                task(p, own_work(p), b, g, first + t / sequences);
            }
        }
#ifdef __SSE2__
        _mm_setcsr(mode);
#endif
    }
}

/* Lay the buffers out; their size. */
static int64_t lay_out(Problem *p, int kinds) {
    int64_t size = sizeof(Work) * p->threads, state_size = p->batch * p->heads * p->N * p->P;
    p->window = 4 * p->threads < chunks(p) ? 4 * p->threads : chunks(p);
    p->work = (Work *)p->scratch;
    for (int i = 0; i < STATES && chunks(p) > 1; i++) {
        if (kinds == 1 && i != FROM_LEFT && i != FROM_RIGHT) continue;
        p->carried[i] = (float *)(p->scratch + size);
        size += sizeof(float) * state_size;
        p->states[i] = (value *)(p->scratch + size);
        size += sizeof(value) * state_size * slots(p, i);
    }
    return size;
}

int64_t forward_bytes(Problem *p) { return lay_out(p, 1); }
int64_t backward_bytes(Problem *p) { return lay_out(p, 2); }

/* Large pages for memory that is about to be written: at first touch each page costs a fault. */
static void ask_large_pages(void *memory, int64_t size) {
#if defined __linux__ && defined MADV_HUGEPAGE
    uintptr_t page = (uintptr_t)1 << 21, start = ((uintptr_t)memory + page - 1) & ~(page - 1);
    uintptr_t end = ((uintptr_t)memory + size) & ~(page - 1);
    if (end > start) madvise((void *)start, end - start, MADV_HUGEPAGE);
#else
    (void)memory, (void)size;
#endif
}

static void start(Problem *p, int kinds, ChunkTask *task) {
    int64_t size = lay_out(p, kinds);
    ask_large_pages(p->scratch, size);
    ask_large_pages(p->out, sizeof(value) * p->batch * p->length * p->heads * p->P);
    run(p, kinds, task);
}

void forward(Problem *p) { start(p, 1, forward_chunk); }
void backward(Problem *p) { start(p, 2, backward_chunk); }
