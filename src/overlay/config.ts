/** The section of a node of the overlay: [overlay]. What login gave is in the state's folder. */
import * as z from 'zod'
import { accessPattern } from '../mechanism/schema.ts'
import { parseEndpoint } from './push/address.ts'
import { isFullName } from './wire/message.ts'

const overlay = z
  .strictObject({
    accesses: z
      .array(accessPattern)
      .default(['*'])
      .describe('Interfaces to use towards peers and servers, most preferred first; patterns with `*`.'),
    dns: z
      .enum(['auto', 'resolved', 'resolvconf', 'file', 'none'])
      .default('auto')
      .describe(
        'Where this daemon is registered as name server for the overlay. `auto`: systemd-resolved, else resolvconf, else `file`. `file`: a line in /etc/resolv.conf, removed when the daemon stops. `none`: nowhere.',
      ),
    notifications: z
      .boolean()
      .default(true)
      .describe(
        'Whether to be woken through the notification server of the zone, over one TCP connection, instead of sending keep-alives by UDP.',
      ),
    notification_keep_alive: z
      .int()
      .min(30)
      .max(7200)
      .default(240)
      .describe(
        'Seconds after which an idle connection to the notification server is kept alive (TCP keep-alive).',
      ),
    push: z
      .string()
      .max(270)
      .refine((value) => /^(apns|fcm):./.test(value) || parseEndpoint(value).ok, {
        error: 'not the https URL of a Web Push or UnifiedPush endpoint, apns:TOKEN or fcm:TOKEN',
      })
      .optional()
      .describe(
        'Where a push service wakes this node while it is not connected: the https URL of a Web Push or UnifiedPush endpoint, `apns:TOKEN` or `fcm:TOKEN`.',
      ),
    zones: z
      .array(z.string().refine(isFullName, { error: 'not the name of a zone' }))
      .max(64)
      .default([])
      .describe('Other zones whose names are asked of this daemon too: their nodes are reached by name.'),
  })
  .describe('Makes this machine a node of an overlay, after `godwit overlay login`.')

export const overlaySections = { overlay: overlay.optional() }

export type OverlaySettings = z.output<typeof overlay>
