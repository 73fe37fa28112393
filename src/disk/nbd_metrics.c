/* SPDX-License-Identifier: Apache-2.0 */

/* What the metrics hear of requests. */
#include <errno.h>

#include "base/units.h"
#include "disk/nbd_conn_internal.h"
#include "observe/metrics.h"

static enum metric_nbd_op op_of(uint16_t command)
{
    switch (command) {
    case NBD_CMD_READ:
        return METRIC_NBD_READ;
    case NBD_CMD_WRITE:
        return METRIC_NBD_WRITE;
    case NBD_CMD_FLUSH:
        return METRIC_NBD_FLUSH;
    case NBD_CMD_TRIM:
        return METRIC_NBD_TRIM;
    case NBD_CMD_CACHE:
        return METRIC_NBD_CACHE;
    case NBD_CMD_WRITE_ZEROES:
        return METRIC_NBD_WRITE_ZEROES;
    case NBD_CMD_BLOCK_STATUS:
        return METRIC_NBD_BLOCK_STATUS;
    default:
        return METRIC_NBD_UNKNOWN;
    }
}

void nbd_measure_answer(const struct nbd_slot *s)
{
    const struct nbd_request *q = &s->request;

    if (s->phase == NBD_GREETING)
        return;
    metric_nbd_requests_add(1, op_of(q->command), s->error < 0 ? METRIC_FAILURE : METRIC_SUCCESS);
    if (s->error == 0 && q->command == NBD_CMD_READ)
        metric_nbd_bytes_add(q->len_bytes, METRIC_DIRECTION_READ);
    else if (s->error == 0 && q->command == NBD_CMD_WRITE)
        metric_nbd_bytes_add(q->len_bytes, METRIC_DIRECTION_WRITTEN);
}

void nbd_measure_failure(const struct disk_request *r)
{
    /* The client has gone, or we end: nobody sees it. */
    if (r->result == -ECANCELED || r->result == -ESHUTDOWN)
        return;
    metric_errors_add(1, metric_error_of(r->cause < 0 ? r->cause : r->result));
}
