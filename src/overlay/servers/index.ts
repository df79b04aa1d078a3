/** The overlay's servers, for whoever runs and administers them. */

export { LABEL } from '../machine/names.ts'
export type { StoreReport } from '../store/postgres/protocol.ts'
export { checkStoreUrl, type PostgresSettings } from '../store/postgres/settings.ts'
export { Store } from '../store/store.ts'
export type { ServerRole } from '../wire/message.ts'
export { MemberServers } from './member-servers.ts'
export { hashPassword } from './passwords.ts'
export {
  changePushSettings,
  PUSH_FILE,
  type PushChange,
  type PushSettings,
  readPushSettings,
  vapidKey,
  vapidOf,
} from './push-settings.ts'
export { certificatePin, hostPort, ROLES, type Role } from './roles.ts'
export { OverlayServers, rolesElsewhere, virtualAddresses } from './servers.ts'
export {
  type AnySettings,
  COPY_FILE,
  DATABASE_FILE,
  DEFAULT_PORT,
  elsewhere,
  isBlock,
  isMember,
  keyOf,
  type MemberSettings,
  memberSettings,
  type NewServer,
  newSettings,
  readAnySettings,
  readSettings,
  SERVER_NAME,
  SETTINGS_FILE,
  type ServerSettings,
  storeOf,
  writeAnySettings,
  writeMember,
  writeSettings,
} from './settings.ts'
export { reportSoft, type SoftReport } from './soft/report.ts'
export { checkSoftUrl, type SoftSettings } from './soft/settings.ts'
export { risksOf } from './store-watch.ts'
