/** The overlay's servers, for whoever runs and administers them. */

export { Store } from '../store/store.ts'
export { LABEL } from './account.ts'
export { hashPassword } from './passwords.ts'
export {
  changePushSettings,
  PUSH_FILE,
  type PushChange,
  type PushSettings,
  readPushSettings,
  vapidOf,
} from './push-settings.ts'
export { certificatePin, hostPort, OverlayServers, ROLES, type Role, virtualAddresses } from './servers.ts'
export {
  DATABASE_FILE,
  DEFAULT_PORT,
  isBlock,
  type NewServer,
  newSettings,
  readSettings,
  SETTINGS_FILE,
  type ServerSettings,
  writeSettings,
} from './settings.ts'
