/**
 * @generated SignedSource<<e3a9b22f6ea9708fe32a4ae7852bf935>>
 * @lightSyntaxTransform
 */

/* tslint:disable */
/* eslint-disable */
// @ts-nocheck

import { ConcreteRequest } from 'relay-runtime';
export type OpenWalletInput = {
  ownerId: string;
};
export type PlayerOpenWalletMutation$variables = {
  input: OpenWalletInput;
};
export type PlayerOpenWalletMutation$data = {
  readonly openWallet: {
    readonly alreadyOpen?: boolean;
  } | null | undefined;
};
export type PlayerOpenWalletMutation = {
  response: PlayerOpenWalletMutation$data;
  variables: PlayerOpenWalletMutation$variables;
};

const node: ConcreteRequest = (function(){
var v0 = [
  {
    "defaultValue": null,
    "kind": "LocalArgument",
    "name": "input"
  }
],
v1 = [
  {
    "kind": "Variable",
    "name": "input",
    "variableName": "input"
  }
],
v2 = {
  "kind": "InlineFragment",
  "selections": [
    {
      "alias": null,
      "args": null,
      "kind": "ScalarField",
      "name": "alreadyOpen",
      "storageKey": null
    }
  ],
  "type": "OpenWalletPayload",
  "abstractKey": null
};
return {
  "fragment": {
    "argumentDefinitions": (v0/*:: as any*/),
    "kind": "Fragment",
    "metadata": null,
    "name": "PlayerOpenWalletMutation",
    "selections": [
      {
        "alias": null,
        "args": (v1/*:: as any*/),
        "concreteType": null,
        "kind": "LinkedField",
        "name": "openWallet",
        "plural": false,
        "selections": [
          (v2/*:: as any*/)
        ],
        "storageKey": null
      }
    ],
    "type": "Mutation",
    "abstractKey": null
  },
  "kind": "Request",
  "operation": {
    "argumentDefinitions": (v0/*:: as any*/),
    "kind": "Operation",
    "name": "PlayerOpenWalletMutation",
    "selections": [
      {
        "alias": null,
        "args": (v1/*:: as any*/),
        "concreteType": null,
        "kind": "LinkedField",
        "name": "openWallet",
        "plural": false,
        "selections": [
          {
            "alias": null,
            "args": null,
            "kind": "ScalarField",
            "name": "__typename",
            "storageKey": null
          },
          (v2/*:: as any*/)
        ],
        "storageKey": null
      }
    ]
  },
  "params": {
    "cacheID": "19566508ba3f0bbe7c8eb2338ff21eac",
    "id": null,
    "metadata": {},
    "name": "PlayerOpenWalletMutation",
    "operationKind": "mutation",
    "text": "mutation PlayerOpenWalletMutation(\n  $input: OpenWalletInput!\n) {\n  openWallet(input: $input) {\n    __typename\n    ... on OpenWalletPayload {\n      alreadyOpen\n    }\n  }\n}\n"
  }
};
})();

(node as any).hash = "da946e993c57dab0a4434a6cc552f11d";

export default node;
