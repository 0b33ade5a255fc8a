/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The least a milter can cost that does what ours does for ordinary mail: libmilter, recipients without a reply, one
 * ACCEPT at DATA, no header, no body. Usage: floor_milter SOCKET  (libmilter's spelling)
 */
#include <libmilter/mfapi.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#define NEEDLESS (SMFIP_NOCONNECT | SMFIP_NOHELO | SMFIP_NOMAIL | SMFIP_NOUNKNOWN)

static sfsistat negotiate(SMFICTX *ctx, unsigned long actions, unsigned long steps, unsigned long f2,
                          unsigned long f3, unsigned long *our_actions, unsigned long *our_steps,
                          unsigned long *our_f2, unsigned long *our_f3)
{
    (void) ctx, (void) actions, (void) f2, (void) f3;
    *our_actions = 0;
    *our_steps = steps & (NEEDLESS | SMFIP_NR_RCPT | SMFIP_NR_HDR | SMFIP_HDR_LEADSPC | SMFIP_SKIP);
    *our_f2 = *our_f3 = 0;
    return SMFIS_CONTINUE;
}

static sfsistat recipient(SMFICTX *ctx, char **argv)
{
    (void) argv;
    /* Ours has to look at the address, so the floor does too. */
    (void) smfi_getsymval(ctx, "{rcpt_addr}");
    return SMFIS_NOREPLY;
}

static sfsistat data(SMFICTX *ctx)
{
    (void) ctx;
    return SMFIS_ACCEPT;
}

int main(int argc, char **argv)
{
    struct smfiDesc floor_milter;

    memset(&floor_milter, 0, sizeof floor_milter);
    floor_milter.xxfi_name = "floor";
    floor_milter.xxfi_version = SMFI_VERSION;
    floor_milter.xxfi_negotiate = negotiate;
    floor_milter.xxfi_envrcpt = recipient;
    floor_milter.xxfi_data = data;
    if (argc != 2 || smfi_setconn(argv[1]) != MI_SUCCESS || smfi_register(floor_milter) != MI_SUCCESS
        || smfi_setbacklog(1024) != MI_SUCCESS || smfi_opensocket(1) != MI_SUCCESS) {
        fprintf(stderr, "usage: floor_milter SOCKET\n");
        return 2;
    }
    return smfi_main();
}
