/* SPDX-License-Identifier: Apache-2.0 */
#include "image/export_plan.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "image/layout.h"
#include "image/scan.h"

#define RANGE_PAGES ((uint32_t)(SCAN_RANGE_BYTES / PAGE_BYTES))
#define GAP_BYTES   (4 * GRANULE_BYTES) /* rather read over less than this than read twice */

static uint32_t range_of(uint32_t page)
{
    return page / RANGE_PAGES;
}

static size_t count_pieces(const struct map *map)
{
    size_t n = 0;

    for (size_t i = 0; i < map_run_count(map); i++) {
        struct map_run run = map_run_at(map, i);

        if (run.build != MAP_ZERO)
            n += range_of(run.storage + map_run_pages(map, i) - 1) - range_of(run.storage) + 1;
    }
    return n;
}

static void cut_run(struct export_plan *p, struct map_run run, uint32_t pages)
{
    while (pages > 0) {
        uint32_t n = MIN(pages, RANGE_PAGES - run.storage % RANGE_PAGES);

        p->pieces[p->piece_count++] = (struct export_piece){
            .image = run.start,
            .storage = run.storage,
            .pages = (uint16_t)n,
            .build = run.build,
        };
        run.start += n;
        run.storage += n;
        pages -= n;
    }
}

static int compare_pieces(const void *a, const void *b)
{
    const struct export_piece *x = a, *y = b;

    if (x->build != y->build)
        return x->build < y->build ? -1 : 1;
    if (x->storage != y->storage)
        return x->storage < y->storage ? -1 : 1;
    return x->image < y->image ? -1 : x->image > y->image;
}

static uint64_t piece_start(const struct export_piece *piece)
{
    return round_down(piece->storage * PAGE_BYTES, GRANULE_BYTES);
}

static uint64_t piece_end(const struct export_piece *piece)
{
    return round_up(((uint64_t)piece->storage + piece->pages) * PAGE_BYTES, GRANULE_BYTES);
}

/* One more piece: into the read of those before it, if that can bring it too. */
static void group_piece(struct export_plan *p, size_t i, const struct layout *l)
{
    const struct export_piece *piece = &p->pieces[i], *before = i > 0 ? piece - 1 : NULL;
    struct export_group *g = before ? &p->groups[p->group_count - 1] : NULL;
    uint64_t end = MIN(piece_end(piece), l->objects[piece->build].data.uncompressed_bytes);

    if (!g || before->build != piece->build ||
        range_of(before->storage) != range_of(piece->storage) ||
        piece_start(piece) >= g->offset + g->len_bytes + GAP_BYTES) {
        g = &p->groups[p->group_count++];
        *g = (struct export_group){.first_piece = i, .offset = piece_start(piece)};
    }
    g->piece_count++;
    if (end > g->offset + g->len_bytes)
        g->len_bytes = (uint32_t)(end - g->offset);
}

int export_plan_init(struct export_plan *p, const struct layout *l, struct thaw_error *e)
{
    const struct map *map = l->header->map;
    size_t count = count_pieces(map);

    p->pieces = reallocarray(NULL, count + 1, sizeof(*p->pieces));
    p->groups = reallocarray(NULL, count + 1, sizeof(*p->groups));
    if (!p->pieces || !p->groups)
        return err_set(e, -ENOMEM, "no memory to plan the export of %s", l->name);
    for (size_t i = 0; i < map_run_count(map); i++) {
        struct map_run run = map_run_at(map, i);

        if (run.build != MAP_ZERO)
            cut_run(p, run, map_run_pages(map, i));
    }
    qsort(p->pieces, p->piece_count, sizeof(*p->pieces), compare_pieces);
    for (size_t i = 0; i < p->piece_count; i++)
        group_piece(p, i, l);
    for (size_t i = 0; i < p->group_count; i++)
        p->read_bytes += p->groups[i].len_bytes;
    return 0;
}

void export_plan_finish(struct export_plan *p)
{
    free(p->pieces);
    free(p->groups);
    *p = (struct export_plan){0};
}
