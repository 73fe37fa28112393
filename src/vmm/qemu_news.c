/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/qemu_news.h"

#include <stdio.h>
#include <string.h>

#include "base/units.h"

/* QEMU: qapi/run-state.json, enum ShutdownCause. What thaw itself causes is no news. */
static const struct {
    const char *reason;
    const char *text;
} shutdowns[] = {
    {"guest-shutdown", "the guest shut itself down"},
    {"guest-reset", "the guest rebooted, which ends it"},
    {"guest-panic", "the guest ended with the panic of its kernel"},
    {"host-signal", "somebody ended QEMU by a signal"},
    {"host-ui", "somebody closed QEMU's window"},
    {"host-error", "QEMU ended because of an error of its host"},
    {"host-qmp-system-reset", "somebody reset the guest, which ends it"},
};

static const char *text_of(const json_t *data, const char *key)
{
    const char *text = json_string_value(json_object_get(data, key));

    return text ? text : "?";
}

static bool shutdown_text(const json_t *data, char ret[VMM_NEWS_BYTES])
{
    const char *reason = text_of(data, "reason");

    for (size_t i = 0; i < ARRAY_SIZE(shutdowns); i++) {
        if (strcmp(shutdowns[i].reason, reason) == 0) {
            snprintf(ret, VMM_NEWS_BYTES, "%s", shutdowns[i].text);
            return true;
        }
    }
    return false;
}

static void io_error_text(const json_t *data, char ret[VMM_NEWS_BYTES])
{
    const char *node = text_of(data, "node-name");

    snprintf(ret, VMM_NEWS_BYTES, "a %s of the guest on disk '%s' failed: %s (QEMU's action: %s)",
             text_of(data, "operation"), *node && *node != '?' ? node : text_of(data, "device"),
             text_of(data, "reason"), text_of(data, "action"));
}

static bool text_of_event(const char *name, const json_t *data, char ret[VMM_NEWS_BYTES])
{
    if (strcmp(name, "SHUTDOWN") == 0)
        return shutdown_text(data, ret);
    if (strcmp(name, "GUEST_PANICKED") == 0)
        snprintf(ret, VMM_NEWS_BYTES, "the guest's kernel panicked (QEMU's action: %s)",
                 text_of(data, "action"));
    else if (strcmp(name, "GUEST_CRASHLOADED") == 0)
        snprintf(ret, VMM_NEWS_BYTES, "the guest's kernel crashed; its crash kernel took over");
    else if (strcmp(name, "RESET") == 0)
        snprintf(ret, VMM_NEWS_BYTES, "the guest rebooted");
    else if (strcmp(name, "WATCHDOG") == 0)
        snprintf(ret, VMM_NEWS_BYTES, "the guest's watchdog expired (QEMU's action: %s)",
                 text_of(data, "action"));
    else if (strcmp(name, "MEMORY_FAILURE") == 0)
        snprintf(ret, VMM_NEWS_BYTES, "a page of memory failed under the %s (QEMU's action: %s)",
                 text_of(data, "recipient"), text_of(data, "action"));
    else if (strcmp(name, "BLOCK_IO_ERROR") == 0)
        io_error_text(data, ret);
    else
        return false;
    return true;
}

bool qemu_news_text(const json_t *event, char ret[VMM_NEWS_BYTES])
{
    const char *name = json_string_value(json_object_get(event, "event"));

    if (!name || !text_of_event(name, json_object_get(event, "data"), ret))
        return false;
    for (char *c = ret; *c; c++) {
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = ' '; /* QEMU shares a process with the guest: no escape sequences */
    }
    return true;
}
