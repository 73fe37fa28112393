/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_VMM_QEMU_NEWS_H
#define THAW_VMM_QEMU_NEWS_H

/* What QEMU's events (QMP) tell an operator. A pure function. */

#include <jansson.h>
#include <stdbool.h>

#include "vmm/vmm.h"

/** qemu_news_text() - a sentence about @event in @ret; false when it concerns no operator */
bool qemu_news_text(const json_t *event, char ret[VMM_NEWS_BYTES]);

#endif
