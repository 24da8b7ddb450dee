// Drives a server with grpc-go: grpc-go ADDRESS MODEL DESCRIPTORS
//
// Prints one JSON object with everything that came back. The model is iris: X, FP32 [-1, 4], to label and probabilities.
// Messages are made from the descriptors at hand, so that no generated code has to be kept.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

const service = "inference.GRPCInferenceService"

var rows = []float32{5.1, 3.5, 1.4, 0.2, 6.7, 3.0, 5.2, 2.3, 5.9, 3.0, 4.2, 1.5}

type client struct {
	files *protoregistry.Files
	conn  *grpc.ClientConn
	model string
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (c *client) message(name string) *dynamicpb.Message {
	found, err := c.files.FindDescriptorByName(protoreflect.FullName("inference." + name))
	check(err)
	return dynamicpb.NewMessage(found.(protoreflect.MessageDescriptor))
}

// A message from its JSON.
func (c *client) made(name string, content map[string]any) *dynamicpb.Message {
	text, err := json.Marshal(content)
	check(err)
	message := c.message(name)
	check(protojson.Unmarshal(text, message))
	return message
}

func shown(message proto.Message) any {
	text, err := protojson.Marshal(message)
	check(err)
	var value any
	check(json.Unmarshal(text, &value))
	return value
}

func (c *client) call(ctx context.Context, method string, request proto.Message, options ...grpc.CallOption) (any, error) {
	response := c.message(method + "Response")
	if err := c.conn.Invoke(ctx, "/"+service+"/"+method, request, response, options...); err != nil {
		return nil, err
	}
	return shown(response), nil
}

func (c *client) request(id string, times int, raw bool) *dynamicpb.Message {
	values := make([]float32, 0, len(rows)*times)
	for range times {
		values = append(values, rows...)
	}
	input := map[string]any{"name": "X", "datatype": "FP32", "shape": []int{len(values) / 4, 4}}
	content := map[string]any{"modelName": c.model, "id": id, "inputs": []any{input}}
	if raw {
		data := make([]byte, 0, 4*len(values))
		for _, value := range values {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(value))
		}
		content["rawInputContents"] = [][]byte{data}
	} else {
		input["contents"] = map[string]any{"fp32Contents": values}
	}
	return c.made("ModelInferRequest", content)
}

// Many calls at once on the one connection; how many of them were answered with their own id.
func (c *client) together(ctx context.Context, calls int) int {
	var group sync.WaitGroup
	var lock sync.Mutex
	right := 0
	for number := range calls {
		group.Add(1)
		go func() {
			defer group.Done()
			id := fmt.Sprint(number)
			answer, err := c.call(ctx, "ModelInfer", c.request(id, 1, number%2 == 0))
			lock.Lock()
			defer lock.Unlock()
			if err == nil && answer.(map[string]any)["id"] == id {
				right++
			} else if err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}()
	}
	group.Wait()
	return right
}

func (c *client) stream(ctx context.Context, count int) []any {
	description := &grpc.StreamDesc{StreamName: "ModelStreamInfer", ServerStreams: true, ClientStreams: true}
	stream, err := c.conn.NewStream(ctx, description, "/"+service+"/ModelStreamInfer")
	check(err)
	go func() {
		for number := range count {
			if stream.SendMsg(c.request(fmt.Sprint(number), 1, false)) != nil {
				return
			}
		}
		stream.CloseSend()
	}()
	seen := []any{}
	for {
		answer := c.message("ModelStreamInferResponse")
		err := stream.RecvMsg(answer)
		if err == io.EOF {
			return seen
		}
		check(err)
		seen = append(seen, shown(answer).(map[string]any)["inferResponse"].(map[string]any)["id"])
	}
}

func (c *client) reflected(ctx context.Context) []string {
	stream, err := grpc_reflection_v1.NewServerReflectionClient(c.conn).ServerReflectionInfo(ctx)
	check(err)
	check(stream.Send(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
	}))
	answer, err := stream.Recv()
	check(err)
	names := []string{}
	for _, found := range answer.GetListServicesResponse().GetService() {
		names = append(names, found.GetName())
	}
	check(stream.CloseSend())
	return names
}

func refused(err error) []string {
	found, _ := status.FromError(err)
	return []string{found.Code().String(), found.Message()}
}

func main() {
	address, model, descriptors := os.Args[1], os.Args[2], os.Args[3]
	content, err := os.ReadFile(descriptors)
	check(err)
	set := &descriptorpb.FileDescriptorSet{}
	check(proto.Unmarshal(content, set))
	files, err := protodesc.NewFiles(set)
	check(err)
	conn, err := grpc.NewClient(
		address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
	)
	check(err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	c := &client{files, conn, model}

	seen := map[string]any{}
	for _, method := range []string{"ServerLive", "ServerReady", "ServerMetadata"} {
		seen[method], err = c.call(ctx, method, c.message(method+"Request"))
		check(err)
	}
	seen["ModelMetadata"], err = c.call(ctx, "ModelMetadata", c.made("ModelMetadataRequest", map[string]any{"name": model}))
	check(err)
	for name, raw := range map[string]bool{"typed": false, "raw": true} {
		for suffix, options := range map[string][]grpc.CallOption{"": {}, " gzip": {grpc.UseCompressor(gzip.Name)}} {
			seen[name+suffix], err = c.call(ctx, "ModelInfer", c.request("1", 1, raw), options...)
			check(err)
			large, err := c.call(ctx, "ModelInfer", c.request("2", 20_000, raw), options...)
			check(err)
			outputs := large.(map[string]any)["outputs"].([]any)
			seen["large "+name+suffix] = outputs[0].(map[string]any)["shape"]
		}
	}
	seen["together"] = c.together(ctx, 1000)
	seen["stream"] = c.stream(ctx, 200)
	seen["reflection"] = c.reflected(ctx)
	health, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	check(err)
	seen["health"] = health.GetStatus().String()
	_, err = c.call(ctx, "ModelInfer", c.made("ModelInferRequest", map[string]any{"modelName": "beer"}))
	seen["another model"] = refused(err)
	short, stop := context.WithTimeout(ctx, time.Nanosecond)
	defer stop()
	_, err = c.call(short, "ModelInfer", c.request("3", 1, false))
	seen["no time"] = refused(err)
	text, err := json.Marshal(seen)
	check(err)
	fmt.Println(string(text))
}
