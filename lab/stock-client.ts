/**
 * How long a stock Linux Wi-Fi client takes for what it does, from the sources of what the paper ran (Ubuntu 20.04:
 * Linux 5.4, wpa_supplicant 2.9, NetworkManager 1.22), not from what it measured. Milliseconds and dBm.
 *
 *   net/mac80211/scan.c   IEEE80211_PROBE_DELAY and CHANNEL_TIME HZ/33 each, IEEE80211_PASSIVE_CHANNEL_TIME HZ/9
 *   net/mac80211/mlme.c   beacon_loss_count 7, then max_nullfunc_tries 2 of probe_wait_ms 500
 *   NetworkManager        nm-device-wifi.c, link_timeout_cb: 15 s after a disconnection (30 s when a scan is under way)
 *                         until the activation fails and another network may be taken; nm-supplicant-config.c: bgscan
 *                         simple:30:-65:300 when several points of the network were seen. wpa_supplicant by itself, as
 *                         systemd-networkd uses it, makes no background scans
 *   dnsmasq               config.h, PING_WAIT: an address that has not been leased is offered after 3 s
 *   Mishra, Shin, Arbaugh (2003), An Empirical Analysis of the IEEE 802.11 MAC Layer Handoff Process: authentication and
 *                         association a few milliseconds each; the four-way handshake and its timers come to it
 */

/** A beacon is due every 100 time units of 1.024 ms. */
const BEACON_MS = 102.4
const ACTIVE_MS = 1000 / 33 + 1000 / 33
const PASSIVE_MS = 1000 / 9
/** 2.4 GHz: 13 channels; 5 GHz: 4 without radar detection, 15 with it, where a client may only listen. */
const CHANNELS = { active: 13 + 4, passive: 15 }

/** All channels. */
export const SCAN_MS = CHANNELS.active * ACTIVE_MS + CHANNELS.passive * PASSIVE_MS
/** From the last beacon that was heard to the end of the association. */
export const LOST_MS = 7 * BEACON_MS + 2 * 500
/** Authentication, association, four-way handshake. */
export const ASSOCIATE_MS = 100
/** The association ended, and the network has not been seen again: another may be taken. */
export const LINGER_MS = 15_000
/** A new lease. Within a network the old one holds. */
export const LEASE_MS = 3_000
/** Background scans: below this, so often. */
export const LOOK_BELOW_DBM = -65
export const LOOK_EVERY_MS = 30_000

/** How much stronger another point of the network must be, by the strength of this one (wpa_supplicant 2.9, events.c). */
export function roamingDb(dbm: number): number {
  return dbm < -85 ? 1 : dbm < -80 ? 2 : dbm < -75 ? 3 : dbm < -70 ? 4 : 5
}
