/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_SHIM_CLIENT_H
#define THAW_TESTS_SHIM_CLIENT_H

#define SHIM_CLIENT_BYTES (773 * 4096) /* of "guest memory": a size that nothing else maps */

#endif
