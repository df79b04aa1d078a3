/** The catalogue of scenarios, in the order to read them. */
import type { Scenario } from '../scenario.ts'
import { dimeHard } from './dime-hard.ts'
import { dimeSockets } from './dime-sockets.ts'
import { dimeSoft } from './dime-soft.ts'
import { mptcpBlackhole } from './mptcp-blackhole.ts'
import { mptcpBreak } from './mptcp-break.ts'
import { mptcpIntegrity } from './mptcp-integrity.ts'
import { mptcpMultipath } from './mptcp-multipath.ts'
import { mptcpSeamless } from './mptcp-seamless.ts'
import { ntmHandover } from './ntm-handover.ts'
import { ntmMobile } from './ntm-mobile.ts'
import { ntmNatMatrix } from './ntm-nat-matrix.ts'
import { ntmServersDie } from './ntm-servers-die.ts'
import { ntmSignalling } from './ntm-signalling.ts'
import { routerBudget } from './router-budget.ts'
import { routerAggregate, routerBadLink } from './router-bulk.ts'
import { routerCall } from './router-call.ts'
import { routerBothGone, routerDuplicateCut, routerFailoverCut } from './router-cuts.ts'
import { routerPaper, routerPaperGodwit } from './router-paper.ts'
import { routerSeamless } from './router-roam.ts'
import { routerFalling, routerUnequal } from './router-unequal.ts'
import { upmtBlackhole } from './upmt-blackhole.ts'
import { upmtBreakBeforeMake } from './upmt-break-before-make.ts'
import { upmtMakeBeforeBreak } from './upmt-make-before-break.ts'
import { upmtSwap } from './upmt-swap.ts'

export const scenarios: readonly Scenario[] = [
  upmtSwap,
  upmtMakeBeforeBreak,
  upmtBreakBeforeMake,
  upmtBlackhole,
  dimeSoft,
  dimeHard,
  dimeSockets,
  mptcpSeamless,
  mptcpBreak,
  mptcpBlackhole,
  mptcpMultipath,
  mptcpIntegrity,
  ntmSignalling,
  ntmNatMatrix,
  ntmMobile,
  ntmHandover,
  ntmServersDie,
  routerPaper,
  routerPaperGodwit,
  routerSeamless,
  routerDuplicateCut,
  routerFailoverCut,
  routerBothGone,
  routerAggregate,
  routerBadLink,
  routerBudget,
  routerCall,
  routerUnequal,
  routerFalling,
]
